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
  readonly virtiofsdLog: string;
  /** In the shared directory: what containers of a clone see as the kernel's boot id. */
  readonly bootId: string;
  /** The shared directory as the host fills it; a shared mount, containers appear in it by bind mount. */
  readonly shared: string;
  /** The same as the guest gets it: nothing can be made or removed in it, only in what is mounted below. */
  readonly served: string;
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
    virtiofsdLog: join(dir, "virtiofsd.log"),
    bootId: join(dir, "shared", BOOT_ID_NAME),
    shared: join(dir, "shared"),
    served: join(dir, "served"),
  };
}

/** Beside the containers' directories in the shared one; no container id has a comma. */
export const BOOT_ID_NAME = ",boot-id";

export interface ContainerPaths {
  readonly dir: string;
  readonly lock: string;
  readonly state: string;
  /** The host cgroup directories, noted before they are made: what a create that was killed leaves behind. */
  readonly cgroups: string;
}

/** `root` is the value of `--root`, by default `<runDir>/containers`. */
export function containerPaths(root: string, containerId: string): ContainerPaths {
  const dir = join(root, containerId);
  return { dir, lock: join(dir, "lock"), state: join(dir, "state.json"), cgroups: join(dir, "cgroups.json") };
}

export function defaultContainerRoot(runDir: string): string {
  return join(runDir, "containers");
}

export function defaultCacheSocket(runDir: string): string {
  return join(runDir, "cache.sock");
}

export function defaultMetricsSocket(runDir: string): string {
  return join(runDir, "metrics.sock");
}

/** Held for life by the server of this endpoint; its content is the server's pid. */
export function cacheEndpointLock(endpoint: string): string {
  return `${endpoint}.lock`;
}

/** Held for life by the pool server of this run directory, whatever its endpoint: idle VMs have one owner. */
export function cacheServerLock(runDir: string): string {
  return join(runDir, "vmcache.lock");
}

/** Files of one template, `<templateDir>/<digest>`: the directory appears by rename, so it is whole or absent. */
export interface TemplatePaths {
  readonly dir: string;
  /** The guest's memory; its clones map it or copy it. */
  readonly memory: string;
  /** Everything else of the VM. */
  readonly state: string;
  readonly record: string;
  /** Written when a clone could not be made of it: why. */
  readonly fault: string;
}

export function templatePaths(dir: string): TemplatePaths {
  return {
    dir,
    memory: join(dir, "vm.mem"),
    state: join(dir, "vm.state"),
    record: join(dir, "template.json"),
    fault: join(dir, "fault.json"),
  };
}

export function defaultTemplateDir(runDir: string): string {
  return join(runDir, "template");
}

/** Held while templates are made or removed. */
export function templateLock(templateDir: string): string {
  return join(templateDir, "lock");
}

/** The guest's files under the names that its build, the executable and the unpacked directory all use. */
export const GUEST_FILES = { kernel: "vmlinux", initrd: "initrd.cpio", image: "rootfs.erofs" } as const;
/** Names the guest's files with their digests; beside them in the build and in the executable. */
export const GUEST_MANIFEST = "manifest.json";
/** Directory inside the executable that holds the manifest and the compressed files (`<name>.zst`). */
export const EMBEDDED_GUEST_DIR = "guest";
/** And of the library there, a file of its own beside it. */
export const EMBEDDED_LIBRARY_DIR = "lib";
export const SECCOMP_LIBRARY = "libseccomp.so.2";
/** Where `bun build --compile` mounts what it embeds. Source: bun.com/docs/bundler/executables. */
export const EMBEDDED_ROOT = "/$bunfs/root";

/** Unpacked guest assets of one digest; every file appears by rename, so it is whole or absent. */
export interface GuestPaths {
  readonly dir: string;
  readonly kernel: string;
  readonly initrd: string;
  readonly image: string;
  /** Notes which files were checked against the manifest; without it, or when a file changed since, all are checked. */
  readonly verified: string;
}

export function guestPaths(dataDir: string, digest: string): GuestPaths {
  const dir = join(dataDir, "guest", digest);
  return {
    dir,
    kernel: join(dir, GUEST_FILES.kernel),
    initrd: join(dir, GUEST_FILES.initrd),
    image: join(dir, GUEST_FILES.image),
    verified: join(dir, "verified.json"),
  };
}

/** Held while guest assets of any digest are checked or unpacked. */
export function guestLock(dataDir: string): string {
  return join(dataDir, "guest", "lock");
}

/** Inside the guest: what the agent creates, all below one directory. */
export interface AgentPaths {
  readonly dir: string;
  /** crun's own state. */
  readonly crunState: string;
  /** One directory per container: config.json, and files that live as long as one call of crun. */
  readonly bundles: string;
  /** Mount point of the directory shared with the host. */
  readonly shared: string;
  /** Mount point of the sysfs of containers in user namespaces. */
  readonly sysfs: string;
}

export const GUEST_RUN_DIR = "/run/hearth";
/** Name of the virtio-serial port that the agent serves, or opens to say that it serves the vsock port. */
export const AGENT_PORT_NAME = "org.hearth.agent.0";
/** The agent's vsock port, Kata's too. */
export const AGENT_VSOCK_PORT = 1024;
/** Word of the guest kernel's command line: the agent is to serve the vsock port. */
export const VSOCK_KERNEL_PARAM = "hearth.vsock";

export function agentPaths(runDir: string = GUEST_RUN_DIR): AgentPaths {
  return {
    dir: runDir,
    crunState: join(runDir, "crun"),
    bundles: join(runDir, "bundles"),
    shared: join(runDir, "shared"),
    sysfs: join(runDir, "sysfs"),
  };
}

/** Files of one container in the guest. `execSlot` numbers calls of crun that may overlap. */
export interface GuestBundlePaths {
  readonly dir: string;
  readonly config: string;
  crunLog(slot: number): string;
  pidFile(slot: number): string;
  processFile(slot: number): string;
  consoleSocket(slot: number): string;
  /** What hooks write that run in the container. */
  readonly hooksStdout: string;
  readonly hooksStderr: string;
}

export function guestBundlePaths(paths: AgentPaths, containerId: string): GuestBundlePaths {
  const dir = join(paths.bundles, containerId);
  return {
    dir,
    config: join(dir, "config.json"),
    crunLog: (slot) => join(dir, `${slot}.log`),
    pidFile: (slot) => join(dir, `${slot}.pid`),
    processFile: (slot) => join(dir, `${slot}.process.json`),
    consoleSocket: (slot) => join(paths.dir, `console-${slot}.sock`),
    hooksStdout: join(dir, "hooks.out"),
    hooksStderr: join(dir, "hooks.err"),
  };
}
