/** What QEMU plugs and unplugs as the real guest kernel sees it, and a guest saved and restored. */
import { afterEach, beforeEach, describe, expect } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { BootOptions } from "../../src/hypervisor/interface.ts";
import { adoptQemu, launchQemu } from "../../src/hypervisor/qemu/launch.ts";
import type { Qemu } from "../../src/hypervisor/qemu/qemu.ts";
import { vmPaths } from "../../src/paths.ts";
import { openSharedDirectory, type SharedDirectory } from "../../src/storage/shared-directory.ts";
import { unmountTree } from "../../src/sys/mount.ts";
import { openTap } from "../../src/sys/tap.ts";
import { rejection } from "../harness/rejection.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";
import { GuestShell, NO_GUEST, shellGuestOptions } from "../harness/shell-guest.ts";
import { testUnless } from "../harness/skip.ts";

const VIRTIOFSD = "/usr/lib/qemu/virtiofsd";
const TEST_TIMEOUT_MS = 120_000;
const BOOT_TIMEOUT_MS = 60_000;

let place: Scratch;
let stack: AsyncDisposableStack;
let running: BootOptions[];
beforeEach(() => {
  place = scratch();
  stack = new AsyncDisposableStack();
  stack.use(place);
  running = [];
});
afterEach(() => stack.disposeAsync());

function guestTest(name: string, run: () => Promise<void>): void {
  const shown = async (): Promise<void> => {
    try {
      await run();
    } catch (thrown) {
      for (const { consoleLog, qemuLog } of running) {
        process.stderr.write(`${readFileSync(qemuLog, "utf8")}${readFileSync(consoleLog, "utf8")}`);
      }
      throw thrown;
    }
  };
  testUnless(NO_GUEST)(name, shown, TEST_TIMEOUT_MS);
}

async function boot(options: BootOptions): Promise<Qemu> {
  running.push(options);
  return stack.use(await launchQemu(options, { signal: AbortSignal.timeout(BOOT_TIMEOUT_MS) }));
}

async function bootShell(change: Partial<BootOptions> = {}): Promise<readonly [Qemu, GuestShell]> {
  const options = { ...shellGuestOptions(place), ...change };
  const qemu = await boot(options);
  await qemu.agentReady(AbortSignal.timeout(BOOT_TIMEOUT_MS));
  return [qemu, stack.use(await GuestShell.connect(options))];
}

function openShared(sharedFs: "virtio-fs" | "virtio-9p"): Promise<SharedDirectory> {
  const paths = vmPaths(place.dir, "v");
  mkdirSync(paths.dir, { recursive: true });
  stack.defer(() => void unmountTree(paths.dir, { detach: true }));
  return openSharedDirectory({ paths, sharedFs, virtiofsdPath: VIRTIOFSD });
}

describe("plugging into a running guest", () => {
  guestTest("vCPU, memory, NIC and disk appear, and all but the vCPU go again", async () => {
    const [qemu, guest] = await bootShell();
    const busybox = "/bin/busybox";
    const [cpu = ""] = await qemu.addVcpus(1);
    await guest.until("[ -d /sys/devices/system/cpu/cpu1 ]");
    await guest.run("echo 1 >/sys/devices/system/cpu/cpu1/online");
    expect(await guest.run(`${busybox} nproc`)).toBe("2");

    const before = Number(await guest.run("set -- $(/bin/busybox grep MemTotal /proc/meminfo); echo $2"));
    const memory = await qemu.addMemory(128);
    const online =
      'n=1; for m in /sys/devices/system/memory/memory*; do s=$(/bin/busybox cat $m/state); [ "$s" = online ] || { echo online_movable >$m/state && n=0; }; done; [ $n = 0 ]';
    await guest.until(`( ${online} )`);
    const after = Number(await guest.run("set -- $(/bin/busybox grep MemTotal /proc/meminfo); echo $2"));
    expect(after - before).toBe(128 * 1024);

    const tap = openTap("hearthtst%d");
    stack.defer(() => tap[Symbol.dispose]());
    const nic = { kind: "nic", id: "nic0", tapFds: [tap.fd], mac: "02:00:00:00:00:07" } as const;
    const added = await qemu.addDevice(nic);
    expect(await guest.until(`${busybox} grep -l 02:00:00:00:00:07 /sys/class/net/*/address`)).toBe(
      "/sys/class/net/eth0/address",
    );
    // The path that AddedDevice tells is where the guest has it.
    const [port = "", slot = ""] = (added.pciPath ?? "").split("/");
    await guest.run(`[ -d /sys/devices/pci0000:00/0000:00:${port}.0/0000:*:${slot}.0/virtio*/net/eth0 ]`);

    writeFileSync(place.path("disk"), new Uint8Array(1024 * 1024).fill(0x41));
    await qemu.addDevice({ kind: "block", id: "data", path: place.path("disk"), readOnly: false, format: "raw" });
    expect(await guest.until("[ -b /dev/vda ]")).toBe("");
    expect(await guest.run("/bin/busybox cat /sys/block/vda/serial")).toBe("data");
    await guest.run("echo written | /bin/busybox dd of=/dev/vda conv=fsync 2>/dev/null");
    expect(readFileSync(place.path("disk"), "latin1")).toStartWith("written\nAAA");

    await qemu.removeDevice("data");
    await qemu.removeDevice("nic0");
    expect((await guest.try("[ -e /dev/vda ] || [ -e /sys/class/net/eth0 ]")).status).toBe(1);
    await qemu.removeDevice(memory.id);
    expect(qemu.memoryMib).toBe(256);
    expect(await rejection(qemu.removeDevice(cpu))).toMatchObject({ code: "unimplemented" });
    expect(qemu.vcpus).toBe(2);
    // Names and slots are free again.
    await qemu.addDevice({ kind: "block", id: "data", path: place.path("disk"), readOnly: true, format: "raw" });
    await guest.until("[ -b /dev/vda ]");
  });

  guestTest("a device that the guest does not let go: the call ends at the signal and the VM runs on", async () => {
    const [qemu, guest] = await bootShell();
    await qemu.addMemory(128);
    await qemu.pause();
    const error = await rejection(qemu.removeDevice("memory0", AbortSignal.timeout(300)));
    expect(String(error)).toContain("timed out");
    await qemu.resume();
    expect(await guest.run("echo alive")).toBe("alive");
  });
});

describe("shared directory in the guest", () => {
  guestTest("virtio-fs: plugged, and what is bound later appears, with ownership and kinds of files", async () => {
    const [qemu, guest] = await bootShell();
    const shared = stack.use(await openShared("virtio-fs"));
    await qemu.addDevice(shared.device);
    const mount = "/bin/busybox mount -t virtiofs hearthShared /mnt";
    await guest.until(mount);
    await checkSharing(shared, guest);
    // Not over 9p: QEMU 7.2 takes the file it has just made for an attack, because it is none it may open.
    const special = mkdtempSync(join(place.dir, "special-"));
    await shared.expose(special, "c2/rootfs");
    await guest.until("[ -d /mnt/c2/rootfs ]");
    await guest.run("cd /mnt/c2/rootfs; /bin/busybox mkfifo fifo && /bin/busybox mknod null c 1 3; cd /");
    expect(statSync(join(special, "fifo")).isFIFO()).toBe(true);
    expect(statSync(join(special, "null")).rdev).toBe(0x103);
    await guest.run("/bin/busybox umount /mnt");
    await qemu.removeDevice("shared");
  });

  guestTest("virtio-9p: present at boot, the same holds", async () => {
    const shared = stack.use(await openShared("virtio-9p"));
    const [, guest] = await bootShell({ devices: [shared.device], sharedMemory: false });
    const options = shared.guestMountOptions.join(",");
    await guest.run(`/bin/busybox mount -t 9p -o ${options} hearthShared /mnt`);
    await checkSharing(shared, guest);
  });

  async function checkSharing(shared: SharedDirectory, guest: GuestShell): Promise<void> {
    const rootfs = mkdtempSync(join(place.dir, "rootfs-"));
    writeFileSync(join(rootfs, "f"), "from the host");
    const exposed = await shared.expose(rootfs, "c1/rootfs");
    const at = "/mnt/c1/rootfs";
    await guest.until(`[ -e ${at}/f ]`);
    expect(await guest.run(`/bin/busybox cat ${at}/f`)).toBe("from the host");
    await guest.run(
      `cd ${at}; echo x >g; /bin/busybox chown 1234:5678 g; /bin/busybox chmod 4751 g; /bin/busybox ln g hard`,
    );
    await guest.run("/bin/busybox ln -s /etc/target soft");
    const made = statSync(join(rootfs, "g"));
    expect([made.uid, made.gid, made.mode & 0o7777, made.nlink]).toEqual([1234, 5678, 0o4751, 2]);
    expect(await guest.run("/bin/busybox readlink soft")).toBe("/etc/target");
    // Not in the directory itself: a link there would be followed by root on the host.
    expect((await guest.try("/bin/busybox ln -s / /mnt/c1/mounts")).status).not.toBe(0);
    symlinkSync("/etc/passwd", join(rootfs, "out"));
    expect((await guest.try(`/bin/busybox grep -q root: ${at}/out`)).status).not.toBe(0);

    await shared.expose(join(rootfs, "f"), "c1/mounts/0", { readOnly: true });
    await guest.until("[ -e /mnt/c1/mounts/0 ]");
    expect(await guest.run("/bin/busybox cat /mnt/c1/mounts/0")).toBe("from the host");
    expect((await guest.try("echo no >/mnt/c1/mounts/0")).status).not.toBe(0);

    await guest.run("cd /");
    await exposed[Symbol.asyncDispose]();
    await guest.until(`[ ! -e ${at}/f ]`);
    expect(readFileSync(join(rootfs, "f"), "utf8")).toBe("from the host");
    rmSync(rootfs, { recursive: true });
  }
});

describe("save and restore of a guest", () => {
  guestTest("all memory: the clone has its processes, then gets virtio-fs", async () => {
    const change = { imageDevice: "virtio-blk" } as const;
    const [first, before] = await bootShell(change);
    await before.run("remembered=yes");
    before[Symbol.dispose]();
    await first.pause();
    const statePath = place.path("state");
    await first.save({ statePath, ignoreShared: false });
    await first[Symbol.asyncDispose]();
    const options = { ...shellGuestOptions(place, "clone"), ...change, restore: { statePath, ignoreShared: false } };
    const clone = await boot(options);
    await clone.resume();
    // The guest had opened its port before it was saved; QEMU tells when the restored VM runs.
    await clone.agentReady(AbortSignal.timeout(10_000));
    using guest = await GuestShell.connect(options);
    expect(await guest.run("echo $remembered")).toBe("yes");
    const shared = stack.use(await openShared("virtio-fs"));
    await clone.addDevice(shared.device);
    await guest.until("/bin/busybox mount -t virtiofs hearthShared /mnt");
  });

  guestTest("memory in its file: two clones at once, each with its own", async () => {
    const memoryFile = { path: place.path("mem"), access: "shared" } as const;
    const [first, before] = await bootShell({ memoryFile, sharedMemory: false });
    await before.run("remembered=yes");
    before[Symbol.dispose]();
    await first.pause();
    const restore = { statePath: place.path("state"), ignoreShared: true };
    await first.save(restore);
    await first[Symbol.asyncDispose]();
    for (const name of ["one", "two"]) {
      const options = {
        ...shellGuestOptions(place, name),
        sharedMemory: false,
        memoryFile: { path: memoryFile.path, access: "copy-on-write" },
        restore,
      } as const;
      const clone = await boot(options);
      await clone.resume();
      using guest = await GuestShell.connect(options);
      expect(await guest.run("echo $remembered $changed")).toBe("yes");
      await guest.run("changed=too");
      await clone.addVcpus(1);
      await clone.addMemory(128);
    }
  });

  guestTest("a mapped image cannot be saved with all memory, and says so", async () => {
    const [qemu, guest] = await bootShell();
    await qemu.pause();
    const error = await rejection(qemu.save({ statePath: place.path("state"), ignoreShared: false }));
    expect(error).toMatchObject({ code: "failed-precondition", hint: expect.stringContaining("virtio-blk") });
    await qemu.resume();
    expect(await guest.run("echo alive")).toBe("alive");
  });
});

guestTest("a new owner finds the agent's port open", async () => {
  const [first, guest] = await bootShell();
  guest[Symbol.dispose]();
  first.release();
  const options = shellGuestOptions(place);
  const second = stack.use(
    await adoptQemu({ ...options, process: first.process }, { signal: AbortSignal.timeout(5000) }),
  );
  await second.agentReady(AbortSignal.timeout(1000));
  using again = await GuestShell.connect(options);
  expect(await again.run("echo again")).toBe("again");
});
