/** The real guest kernel with a shell where the agent would be: tests look at the guest's side of what QEMU does. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { writeCpio } from "../../guest/cpio.ts";
import type { BootOptions } from "../../src/hypervisor/interface.ts";
import type { ByteStream } from "../../src/sys/byte-stream.ts";
import { connectUnix } from "../../src/sys/unix-socket.ts";
import { withDeadline } from "../../src/util/wait.ts";
import type { Scratch } from "./scratch.ts";

const GUEST = resolve(import.meta.dir, "../../build/guest");

/** Why tests with a real guest cannot run; undefined when they can. */
export const NO_GUEST = existsSync(join(GUEST, "vmlinux")) ? undefined : "build/guest is not built";

/** Commands come as lines and are evaluated; what they print goes back, then a line with their status. */
const INIT = `#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
$b mkdir -p /sys /mnt
$b mount -t sysfs sys /sys
$b modprobe -a virtio_pci virtio_console virtio_blk virtio_net virtio_pmem nd_pmem crc32c_intel erofs virtiofs 9p 9pnet_virtio
for name in /sys/class/virtio-ports/*; do
  [ "$($b cat $name/name)" = org.hearth.agent.0 ] && port=/dev/\${name##*/}
done
exec 3<>$port
# Without a host on the other side a read is at its end at once.
while :; do
  while read -r line <&3; do
    [ "$line" = poweroff ] && $b poweroff -f
    eval "$line" >&3 2>&1
    status=$?
    echo >&3
    echo "status=$status" >&3
  done
  $b usleep 5000
done
`;

/** Options that boot it, in a directory of its own; the initrd is the guest's with another /init behind it. */
export function shellGuestOptions(place: Scratch, name = "vm"): BootOptions {
  const initrd = place.path("shell-initrd.cpio");
  if (!existsSync(initrd)) {
    const init = writeCpio([{ type: "file", path: "init", mode: 0o755, data: new TextEncoder().encode(INIT) }]);
    writeFileSync(initrd, Buffer.concat([readFileSync(join(GUEST, "initrd.cpio")), init]));
  }
  return {
    vmId: name,
    qemuPath: "qemu-system-x86_64",
    accel: "tcg",
    machine: "q35",
    kernel: join(GUEST, "vmlinux"),
    initrd,
    image: join(GUEST, "rootfs.erofs"),
    kernelParams: [],
    vcpus: 1,
    maxVcpus: 2,
    memoryMib: 256,
    maxMemoryMib: 1024,
    sharedMemory: true,
    qmpSocket: place.path(`${name}.qmp`),
    agentSocket: place.path(`${name}.agent`),
    consoleLog: place.path(`${name}.console`),
    qemuLog: place.path(`${name}.log`),
    devices: [],
    seccomp: true,
  };
}

/** How long a command may take in an emulated guest on a busy machine. */
const COMMAND_TIMEOUT_MS = 60_000;

export class GuestShell implements Disposable {
  readonly #stream: ByteStream;
  #buffered = "";

  private constructor(stream: ByteStream) {
    this.#stream = stream;
  }

  static async connect(options: BootOptions): Promise<GuestShell> {
    return new GuestShell(await connectUnix(options.agentSocket));
  }

  /** What the command printed; it fails unless the command succeeds. */
  async run(command: string): Promise<string> {
    const { output, status } = await this.try(command);
    if (status !== 0) throw new Error(`in the guest: ${command}: status ${status}: ${output}`);
    return output;
  }

  async try(command: string): Promise<{ readonly output: string; readonly status: number }> {
    await this.#stream.write(new TextEncoder().encode(`${command}\n`));
    for (;;) {
      const match = /(?:^|\n)status=(\d+)\n/.exec(this.#buffered);
      if (match !== null) {
        const output = this.#buffered.slice(0, match.index).trim();
        this.#buffered = this.#buffered.slice(match.index + match[0].length);
        return { output, status: Number(match[1]) };
      }
      const chunk = await withDeadline(`guest's answer to ${command}`, this.#stream.read(), {
        timeoutMs: COMMAND_TIMEOUT_MS,
      });
      if (chunk === null) throw new Error(`in the guest: ${command}: connection closed`);
      this.#buffered += new TextDecoder().decode(chunk);
    }
  }

  /** Runs it again until it succeeds; for what the guest does by itself some time later. */
  async until(command: string): Promise<string> {
    return await this.run(
      `n=0; until ${command}; do n=$((n+1)); [ $n -lt 300 ] || break; /bin/busybox usleep 20000; done; [ $n -lt 300 ]`,
    );
  }

  [Symbol.dispose](): void {
    this.#stream.close();
  }
}
