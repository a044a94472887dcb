/** What our guest's kernel is told at boot. Each entry says what it buys; measured under TCG where a time is given. */
import { VSOCK_KERNEL_PARAM } from "../../paths.ts";
import type { Device } from "../interface.ts";

/** How the guest gets its root image: mapped as persistent memory (DAX), or read as a disk. */
export type RootDevice = "pmem" | "block";

export interface KernelParamOptions {
  readonly accel: "kvm" | "tcg";
  readonly root: RootDevice;
  /** Kinds of those present at boot, and of those that will come. */
  readonly devices: readonly Device["kind"][];
  /** The agent is reached over vsock. Default false. */
  readonly vsock?: boolean;
  /** Of an emulated guest's time stamp counter, which is the host's. Counts in a millisecond. */
  readonly tscKhz?: number | undefined;
}

// Source: Linux Documentation/admin-guide/kernel-parameters.txt.
const ALWAYS: readonly string[] = [
  "console=ttyS0",
  // Every character is a trap; warnings and panics still come.
  "quiet",
  // -no-reboot makes of this the end of QEMU, so that a panic is seen at once.
  ...["oops=panic", "panic=-1", "reboot=t"],
  // Self-tests of the kernel's ciphers: 0.2 s.
  "cryptomgr.notests",
  // Without it a guest whose memory may grow past 4 GiB sets 64 MiB aside for devices that cannot reach above.
  "swiotlb=noforce",
  // Loading a module waits for other CPUs; this wait is busy and short instead of lazy: 0.05 s.
  "rcupdate.rcu_expedited=1",
  // SELinux, TOMOYO and integrity measurement, which get no policy in the guest, cost 0.04 s; AppArmor 1.3 MiB and no time to speak of.
  "lsm=landlock,lockdown,yama,apparmor,bpf",
  // Keyboard, mouse and serial ports that are not there.
  ...["i8042.noaux", "i8042.nokbd", "8250.nr_uarts=1"],
  ...["audit=0", "zswap.enabled=0"],
];

const EMULATED: readonly string[] = [
  // The emulated time stamp counter is the host's: nothing to watch, and the timer's interrupt does arrive.
  ...["tsc=reliable", "no_timer_check", "nowatchdog"],
  // To our init: fixed addresses for crun and the agent, no JIT. See guest/initrd/init.
  "hearth.emulated",
];

/** Drivers of what a VM always has or may get later; nothing in the guest loads them when a device appears. */
const DEVICE_MODULES: readonly string[] = ["virtio_rng", "virtio_net", "virtio_blk"];

export function kernelParams(options: KernelParamOptions): readonly string[] {
  const vsockModules = options.vsock === true ? ["vmw_vsock_virtio_transport"] : [];
  const modules = [...DEVICE_MODULES, ...vsockModules, ...options.devices.flatMap(modulesOf)];
  return [
    ...ALWAYS,
    ...(options.accel === "tcg" ? emulated(options.tscKhz) : []),
    ...(options.vsock === true ? [VSOCK_KERNEL_PARAM] : []),
    ...(options.root === "pmem" ? ["root=/dev/pmem0", "rootflags=dax=always"] : ["root=/dev/vda"]),
    `hearth.modules=${[...new Set(modules)].join(",")}`,
  ];
}

/** Measured in the guest, one time in some is wrong by as much as a factor of two and a half, and so is the clock from then on. */
function emulated(tscKhz: number | undefined): readonly string[] {
  return tscKhz === undefined ? EMULATED : [...EMULATED, `tsc_early_khz=${tscKhz}`];
}

function modulesOf(kind: Device["kind"]): readonly string[] {
  switch (kind) {
    case "shared-directory-virtio-fs":
      return ["virtiofs"];
    case "shared-directory-9p":
      return ["9p", "9pnet_virtio"];
    case "block":
    case "nic":
      return [];
  }
}
