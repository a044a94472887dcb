/**
 * What throughput is measured in: a guest under QEMU with nothing of ours in it, and a container of Hearth's. Both have the
 * same kernel, the same shared directory, the same kind of tap, and a shell that takes commands.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { BootOptions } from "../src/hypervisor/interface.ts";
import { launchQemu } from "../src/hypervisor/qemu/launch.ts";
import { vmPaths } from "../src/paths.ts";
import { openSharedDirectory } from "../src/storage/shared-directory.ts";
import { unmountTree } from "../src/sys/mount.ts";
import { inNetns } from "../src/sys/namespace.ts";
import { runOrThrow } from "../src/sys/run-process.ts";
import { openTap } from "../src/sys/tap.ts";
import type { Hearth } from "../test/harness/hearth.ts";
import { PATH } from "../test/harness/program.ts";
import { scratch } from "../test/harness/scratch.ts";
import { GuestShell, shellGuestOptions } from "../test/harness/shell-guest.ts";
import { makeWire, type Wire } from "./wire.ts";

export type SharedFs = "virtio-fs" | "virtio-9p";

export const FILE_MIB = 256;
const BOOT_TIMEOUT_MS = 60_000;
const VIRTIOFSD = "/usr/lib/qemu/virtiofsd";
const MEMORY_MIB = 1024;

export interface Subject {
  /** Output of a shell command, which must succeed. */
  run(command: string): Promise<string>;
  /** On the host, in the guest's words; has `file`, of FILE_MIB. */
  readonly dir: string;
  readonly wire: Wire;
}

/** It goes with `stack`. */
export async function bareQemu(stack: AsyncDisposableStack, sharedFs: SharedFs): Promise<Subject> {
  const place = stack.use(scratch());
  const wire = await makeWire(stack, "tap");
  const paths = vmPaths(place.dir, "v");
  mkdirSync(paths.dir, { recursive: true });
  stack.defer(() => void unmountTree(paths.dir, { detach: true }));
  const work = place.path("work");
  mkdirSync(work);
  writeFileSync(join(work, "file"), new Uint8Array(FILE_MIB << 20));
  const shared = stack.use(await openSharedDirectory({ paths, sharedFs, virtiofsdPath: VIRTIOFSD }));
  const options: BootOptions = { ...shellGuestOptions(place), memoryMib: MEMORY_MIB, devices: [shared.device] };
  const qemu = stack.use(await launchQemu(options, { signal: AbortSignal.timeout(BOOT_TIMEOUT_MS) }));
  await qemu.agentReady(AbortSignal.timeout(BOOT_TIMEOUT_MS));
  const guest = stack.use(await GuestShell.connect(options));
  using tap = inNetns(wire.path, () => openTap("tap0"));
  await runOrThrow(["ip", "-n", wire.name, "addr", "add", `${wire.host}/24`, "dev", "tap0"]);
  await runOrThrow(["ip", "-n", wire.name, "link", "set", "tap0", "up"]);
  await qemu.addDevice({ kind: "nic", id: "nic0", tapFds: [tap.fd], mac: "02:00:00:00:00:07" });
  await guest.until("[ -e /sys/class/net/eth0 ]");
  await guest.run(`/bin/busybox ip addr add ${wire.guest}/24 dev eth0; /bin/busybox ip link set eth0 up`);
  stack.use(await shared.expose(work, "files"));
  const type = sharedFs === "virtio-fs" ? "virtiofs" : "9p";
  const mountOptions = shared.guestMountOptions.length === 0 ? "" : `-o ${shared.guestMountOptions.join(",")}`;
  await guest.run(`/bin/busybox mount -t ${type} ${mountOptions} ${shared.device.tag} /mnt`);
  await guest.until("[ -e /mnt/files/file ]");
  return { run: (command) => guest.run(command), dir: "/mnt/files", wire };
}

/** It goes with `stack`. */
export async function container(stack: AsyncDisposableStack, hearth: Hearth, sharedFs: SharedFs): Promise<Subject> {
  const wire = await makeWire(stack, "veth");
  const work = stack.use(scratch());
  writeFileSync(work.path("file"), new Uint8Array(FILE_MIB << 20));
  const namespaces = ["pid", "ipc", "uts", "mount"].map((type) => ({ type }));
  const bundle = await hearth.bundle({
    args: ["sh"],
    config: {
      // Dropping the guest's page cache is a write to /proc/sys.
      linux: {
        namespaces: [...namespaces, { type: "network", path: `${wire.path}-c` }],
        readonlyPaths: [],
        maskedPaths: [],
      },
      mounts: [
        { destination: "/proc", type: "proc", source: "proc" },
        { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["mode=755"] },
        { destination: "/work", type: "bind", source: work.dir, options: ["rbind", "rw"] },
      ],
    },
  });
  const config = hearth.configWith({ hypervisor: { shared_fs: sharedFs, default_memory: MEMORY_MIB } });
  const shell = stack.use(new ContainerShell(hearth, config, bundle, wire.name));
  return { run: (command) => shell.run(command), dir: "/work", wire };
}

/** A shell that runs as a container of its own: a command in, its output back. */
class ContainerShell implements AsyncDisposable {
  readonly #child: Bun.Subprocess<"pipe", "pipe", "inherit">;
  readonly #output: AsyncIterator<Uint8Array>;

  constructor(hearth: Hearth, config: string, bundle: string, id: string) {
    this.#child = Bun.spawn([hearth.runtimePath, "run", "--bundle", bundle, id], {
      argv0: "hearth-runtime",
      env: { PATH, HEARTH_CONFIG: config },
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#output = this.#child.stdout[Symbol.asyncIterator]();
  }

  async run(command: string): Promise<string> {
    void this.#child.stdin.write(`${command}; echo "status=$?"\n`);
    await this.#child.stdin.flush();
    const decoder = new TextDecoder();
    for (let text = ""; ; ) {
      const { value, done } = await this.#output.next();
      if (done === true) throw new Error(`the container ended during ${command}: ${text}`);
      text += decoder.decode(value, { stream: true });
      const match = /^([\s\S]*?)status=(\d+)\n$/.exec(text);
      if (match === null) continue;
      if (match[2] !== "0") throw new Error(`in the container: ${command}: ${text}`);
      return (match[1] ?? "").trim();
    }
  }

  /** The shell ends with its input. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.stdin.end();
    await this.#child.exited;
  }
}
