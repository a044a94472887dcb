/** What a hypervisor gives the layers above: one running VM, its state, and the devices that can be added to it. */

import type { Fd } from "../sys/fd.ts";
import type { ProcessIdentity } from "../sys/process-identity.ts";

/** "failed": QEMU lives, but the guest cannot run on (internal error, panic, I/O error). "ended": the process has gone. */
export type VmRunState = "running" | "paused" | "failed" | "ended";

/** Devices are data; only the hypervisor knows how they are spelled to QEMU. */
export type Device =
  | { readonly kind: "shared-directory-virtio-fs"; readonly tag: string; readonly socketPath: string }
  | { readonly kind: "shared-directory-9p"; readonly tag: string; readonly path: string; readonly readOnly: boolean }
  | {
      readonly kind: "block";
      readonly id: string;
      readonly path: string;
      readonly readOnly: boolean;
      readonly format: "raw" | "qcow2";
    }
  | {
      readonly kind: "nic";
      readonly id: string;
      /** Open tap file descriptors, one per queue; owned by the caller and closed by it after the device was added. */
      readonly tapFds: readonly number[];
      readonly mac: string;
    };

/** What a VM boots from and with. All paths absolute; sizes in MiB. */
export interface BootOptions {
  readonly vmId: string;
  readonly qemuPath: string;
  readonly accel: "kvm" | "tcg";
  readonly machine: "q35" | "pc";
  readonly kernel: string;
  readonly initrd: string;
  readonly image: string;
  /** Default: virtio-pmem where the image's size allows it. A VM whose whole memory is to be saved needs virtio-blk. */
  readonly imageDevice?: "virtio-pmem" | "virtio-blk";
  readonly kernelParams: readonly string[];
  /** Counts of the host's time stamp counter in a millisecond, which an emulated guest has too. Default: it finds out. */
  readonly tscKhz?: number | undefined;
  readonly vcpus: number;
  /** Upper bound for hot-plug; at least `vcpus`. */
  readonly maxVcpus: number;
  readonly memoryMib: number;
  /** Upper bound for hot-plug; at least `memoryMib`. */
  readonly maxMemoryMib: number;
  /** Guest memory must be shared for vhost-user devices (virtio-fs). */
  readonly sharedMemory: boolean;
  readonly qmpSocket: string;
  readonly agentSocket: string;
  /**
   * The guest's agent is reached over vsock at this CID; the agent's port only tells that it listens, and nothing is at
   * `agentSocket`. `fd` has the CID reserved (sys/vsock.ts); the caller's, who may close it after the start.
   */
  readonly vsock?: { readonly cid: number; readonly fd: Fd };
  readonly consoleLog: string;
  readonly qemuLog: string;
  /** Present at boot, in this order. NICs cannot be: they are added to the running VM. */
  readonly devices: readonly Device[];
  /** Devices that are not there yet but will be: the guest cannot load a driver when one appears. */
  readonly laterDevices?: readonly Device["kind"][];
  /**
   * File that holds guest memory instead of anonymous memory: "shared" for a template that fills it, "copy-on-write" for
   * the clones, which leave it as it is. The latter excludes virtio-fs.
   */
  readonly memoryFile?: { readonly path: string; readonly access: "shared" | "copy-on-write" };
  /** Open file that holds guest memory, shared, in the place of `memoryFile`. The caller's, who may close it after the start. */
  readonly memoryFd?: Fd;
  /** Continue the VM saved there instead of booting; everything else here must be as it was. It is paused at first. */
  readonly restore?: SaveOptions;
  /** Hardening; see docs. */
  readonly seccomp: boolean;
}

/**
 * One VM process. Owned by the sandbox process; disposing it kills QEMU and waits for its end. Calls fail with a
 * HearthError; when QEMU has ended, with one that says how and quotes its log and the guest's console.
 */
export interface Hypervisor extends AsyncDisposable {
  readonly process: ProcessIdentity;
  /** Resolves when the process has ended, with what is known of why (exit code, signal, last lines of its log). */
  readonly ended: Promise<HypervisorEnd>;
  runState(signal?: AbortSignal): Promise<VmRunState>;
  /** Resolves when the guest has opened the agent's port; fails with the end of QEMU if that comes first. */
  agentReady(signal?: AbortSignal): Promise<void>;
  /** Resolves when the guest opens the agent's port the next time; whether it is open now does not matter. */
  agentReopened(signal?: AbortSignal): Promise<void>;
  pause(signal?: AbortSignal): Promise<void>;
  resume(signal?: AbortSignal): Promise<void>;
  /** Saves the state of the paused VM to a file; see SaveOptions. */
  save(options: SaveOptions, signal?: AbortSignal): Promise<void>;
  /** Ids for removeDevice. "resource-exhausted", with nothing added, when fewer are free. */
  addVcpus(count: number, signal?: AbortSignal): Promise<readonly string[]>;
  /**
   * So many more vCPUs the hypervisor could run now, their maximum apart. An emulator that has filled its buffer of
   * translated code has no room, until it begins it anew because the guest runs code that it has not run before.
   */
  vcpuRoom(signal?: AbortSignal): Promise<number>;
  /** `mib` a multiple of the guest's memory block size (128 MiB on x86). */
  addMemory(mib: number, signal?: AbortSignal): Promise<AddedDevice>;
  addDevice(device: Device, signal?: AbortSignal): Promise<AddedDevice>;
  /** Takes a device, vCPU or memory away and waits until the running guest has let it go. "not-found" for an unknown id. */
  removeDevice(id: string, signal?: AbortSignal): Promise<void>;
  readonly vcpus: number;
  readonly memoryMib: number;
}

export interface HypervisorEnd {
  readonly exitCode: number | null;
  readonly signal: string | null;
  /** Last lines of QEMU's log, then of the guest's console. */
  readonly logTail: string;
}

export interface SaveOptions {
  readonly statePath: string;
  /** Leave guest RAM in its shared backing file (copy-on-write clones) instead of writing it into the state. */
  readonly ignoreShared: boolean;
}

export interface AddedDevice {
  readonly id: string;
  /** Guest PCI address path as the agent's device path understands it, where the device has one. */
  readonly pciPath: string | undefined;
}
