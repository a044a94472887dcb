/** Every file name Hearth ever creates, mirrored for operators in docs/RUNDIR.md. */
import { join } from "node:path";

export const DEFAULT_RUN_DIR = "/run/hearth";
export const DEFAULT_DATA_DIR = "/var/lib/hearth";
export const DEFAULT_CONFIG_PATH = "/etc/hearth/config.toml";

/** Files of one VM, all in one 0700 directory `<runDir>/vm/<vmId>`. */
export interface VmPaths {
  readonly dir: string;
  /** Held for life by the sandbox process; a lock that can be taken is an orphan to collect. */
  readonly lock: string;
  readonly record: string;
  readonly sandboxSocket: string;
  readonly qmpSocket: string;
  readonly agentSocket: string;
  readonly virtiofsdSocket: string;
  readonly consoleLog: string;
  readonly qemuLog: string;
  readonly sandboxLog: string;
  /** The shared directory; a shared mount, containers appear in it by bind mount. */
  readonly shared: string;
}

export function vmPaths(runDir: string, vmId: string): VmPaths {
  const dir = join(runDir, "vm", vmId);
  return {
    dir,
    lock: join(dir, "lock"),
    record: join(dir, "vm.json"),
    sandboxSocket: join(dir, "sandbox.sock"),
    qmpSocket: join(dir, "qmp.sock"),
    agentSocket: join(dir, "agent.sock"),
    virtiofsdSocket: join(dir, "virtiofsd.sock"),
    consoleLog: join(dir, "console.log"),
    qemuLog: join(dir, "qemu.log"),
    sandboxLog: join(dir, "sandbox.log"),
    shared: join(dir, "shared"),
  };
}

export interface ContainerPaths {
  readonly dir: string;
  readonly lock: string;
  readonly state: string;
}

/** `root` is the value of `--root`, by default `<runDir>/containers`. */
export function containerPaths(root: string, containerId: string): ContainerPaths {
  const dir = join(root, containerId);
  return { dir, lock: join(dir, "lock"), state: join(dir, "state.json") };
}

export function defaultContainerRoot(runDir: string): string {
  return join(runDir, "containers");
}

export function defaultCacheSocket(runDir: string): string {
  return join(runDir, "cache.sock");
}

/** Unpacked guest assets of one digest; the directory appears by rename, so it is whole or absent. */
export interface GuestPaths {
  readonly dir: string;
  readonly kernel: string;
  readonly initrd: string;
  readonly image: string;
}

export function guestPaths(dataDir: string, digest: string): GuestPaths {
  const dir = join(dataDir, "guest", digest);
  return { dir, kernel: join(dir, "vmlinux"), initrd: join(dir, "initrd.cpio"), image: join(dir, "rootfs.erofs") };
}
