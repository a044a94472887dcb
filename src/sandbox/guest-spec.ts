/**
 * Rewrites an OCI configuration for the guest: what is applied there goes on as it is, host paths become exposures of the
 * shared directory, and what cannot be applied inside a VM is an error, or a warning where engines set it by default.
 */
import { basename, join, resolve } from "node:path";
import { HearthError } from "../errors.ts";
import { MOUNTS_BELOW_MAX } from "../limits.ts";
import { CONTAINER_NAMESPACE_PREFIX, type Neighbours, podRole, vmRole } from "../oci/pod.ts";
import type { Hooks, LinuxDevice, Mount, Namespace, Process, Spec } from "../oci/spec.ts";
import { BOOT_ID_NAME } from "../paths.ts";
import { type GuestBind, keepFlags } from "./bind-flags.ts";
import { guestDevices } from "./guest-devices.ts";
import { type GuestDisk, guestDisk } from "./guest-disk.ts";
import { guestResources } from "./guest-resources.ts";
import { type GuestVolume, guestVolume, mirroredVolume } from "./guest-volume.ts";
import type { HostSecurity } from "./host-security.ts";
import { type MountIdMapping, mountIdMapping } from "./id-mapping.ts";
import { guestOptions, withFlags } from "./mount-options.ts";
import { dropLabel, type GuestProfile, type LabelledProcess, labelledProcess } from "./process-labels.ts";
import { refuse } from "./refuse.ts";
import {
  insideOf,
  isBindMount,
  type MountPoint,
  mountedSource,
  mountPointsOf,
  mountsInRootfs,
  withRootMounted,
} from "./rootfs-mounts.ts";

/** Where the agent mounts the VM's shared directory. */
export const GUEST_SHARED_DIR = "/run/hearth/shared";

/** What the guest's crun calls the spec it follows: it refuses every other minor version, whatever the file holds. */
const GUEST_OCI_VERSION = "1.0.2";

/** A host path that has to appear in the shared directory, at a path relative to it. */
export interface Exposure {
  readonly hostPath: string;
  readonly relativePath: string;
  /** With what is mounted below it on the host. */
  readonly recursive: boolean;
  /** Options of an overlay file system that appears instead; see ExposeOptions. */
  readonly overlay?: string;
  /** Whose its files appear to be; see ExposeOptions. */
  readonly idMapping?: MountIdMapping;
}

export interface GuestSpec {
  readonly config: Spec;
  /** What its root is on the host; absolute. */
  readonly hostRootfs: string;
  /** To be made in it, unless they are there or what is mounted before hides them. */
  readonly mountPoints: readonly MountPoint[];
  readonly exposures: readonly Exposure[];
  readonly volumes: readonly GuestVolume[];
  readonly disks: readonly GuestDisk[];
  /** What the agent has to bind before crun finds it as the source of a mount. */
  readonly binds: readonly GuestBind[];
  /** AppArmor profiles that the guest's kernel has to have before the process can have one. */
  readonly profiles: readonly GuestProfile[];
  readonly warnings: readonly string[];
}

/** Its neighbours are the containers of the same VM. */
export interface GuestSpecContext extends Neighbours {
  readonly containerId: string;
  readonly bundle: string;
  /** What a bind source is on the host; "missing" where there is none. */
  readonly fileTypeOf: (hostPath: string) => HostFileType;
  /** The kernel's boot id is another VM's too: show the VM's own in its place. Default false. */
  readonly ownBootId?: boolean;
  /** Mode of a directory in a root directory of the host; undefined where there is none. */
  readonly modeInRoot: (root: string, path: string) => number | undefined;
  /** See resolveInRoot. */
  readonly placeInRoot: (root: string, path: string, isHidden: (place: string) => boolean) => string;
  /** Where something is mounted below a path of the host: relative paths, an outer one first. */
  readonly mountsBelow: (hostPath: string) => readonly string[];
  /** Options of the mount that a path of the host is on, "ro" or "nosuid" among them. */
  readonly mountFlags: (hostPath: string) => readonly string[];
  /** What a file system in memory that is mounted exactly there is like. */
  readonly tmpfsAt: (hostPath: string) => HostTmpfs | undefined;
  /** Whether the guest gets a copy of a volume that nobody changes but its host; see mirrored-volume.ts. Default: of none. */
  readonly isMirrored?: (hostPath: string) => boolean;
  readonly security: HostSecurity;
  /** Whether the host's kernel has a device of these numbers. */
  readonly hasDevice: (device: LinuxDevice) => boolean;
  /** The container of the same VM whose configuration has this path for a namespace of that type. Default: none. */
  readonly containerOfPath?: (type: string, path: string) => string | undefined;
}

/** A tmpfs or hugetlbfs on the host: its size, and who owns its root. */
export interface HostTmpfs {
  /** Of a hugetlbfs, whose size is 0 when it is not limited. */
  readonly hugepageBytes?: number;
  readonly sizeBytes: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** "disk" is a block device, "device" another one. */
export type HostFileType = "directory" | "file" | "socket" | "disk" | "device" | "fifo" | "missing";

/** Mount types the guest's kernel provides itself; anything else but a bind mount has its source on the host. */
const GUEST_FILESYSTEMS: ReadonlySet<string> = new Set([
  "proc",
  "sysfs",
  "tmpfs",
  "ramfs",
  "devpts",
  "mqueue",
  "cgroup",
  "cgroup2",
  "devtmpfs",
  "hugetlbfs",
  "securityfs",
  "debugfs",
  "tracefs",
  "bpf",
]);

/** Fails with invalid-argument or unimplemented, naming the property. */
export function toGuestSpec(given: Spec, context: GuestSpecContext): GuestSpec {
  const spec = withRootMounted(given, context.bundle);
  const warnings: string[] = [];
  const exposures: Exposure[] = [];
  const volumes: GuestVolume[] = [];
  const disks: GuestDisk[] = [];
  const rootPath = spec.root?.path;
  if (rootPath === undefined) throw new HearthError("invalid-argument", "read config.json: root.path is missing");
  const hostRootfs = resolve(context.bundle, rootPath);
  const rootfs = expose(exposures, hostRootfs, `${context.containerId}/rootfs`);
  const placed = mountsInRootfs(spec.mounts ?? [], hostRootfs, {
    modeOf: (path, source) => {
      const root = source === undefined ? hostRootfs : resolve(context.bundle, source);
      // A source that is missing is told of where it is mounted.
      return context.fileTypeOf(root) === "directory" ? context.modeInRoot(root, path) : undefined;
    },
    placeOf: (path, isHidden) => context.placeInRoot(hostRootfs, path, isHidden),
  });
  const mounts = placed.flatMap((mount, index) => {
    const idMapping = mountIdMapping(mount, spec.linux, isBindMount(mount));
    const inGuest =
      guestVolume(mount, context, volumes) ??
      (idMapping === undefined ? mirroredVolume(mount, context, volumes) : undefined) ??
      diskMount(mount, index, context, disks) ??
      remountedPart(mount, context, hostRootfs, rootfs, placed.slice(0, index));
    if (inGuest !== undefined && idMapping !== undefined) {
      refuse(`mount ${mount.destination} idmap`, "the guest's own file systems have no id-mapped mounts");
    }
    const made = inGuest ?? guestMount({ mount, index, idMapping }, context, exposures, warnings);
    return context.ownBootId === true && mount.type === "proc" ? [...made, bootIdMount(mount.destination)] : made;
  });
  const hasUserNamespace = spec.linux?.namespaces?.some(({ type }) => type === "user") === true;
  const flagged = hasUserNamespace
    ? keepFlags(mounts, { rootfs, containerId: context.containerId })
    : { mounts, binds: [] };
  const hooks = guestHooks(spec.hooks, context, exposures);
  const labelled = spec.process && guestProcess(spec.process, context, warnings);
  const config: Spec = {
    ...spec,
    ociVersion: GUEST_OCI_VERSION,
    // By the agent, which takes it out: crun knows of "ro" alone.
    root: { ...spec.root, path: rootfs, mountFlags: context.mountFlags(hostRootfs) },
    mounts: flagged.mounts,
    ...(labelled === undefined ? {} : { process: labelled.process }),
    linux: guestLinux(spec, context, warnings),
    ...(hooks === undefined ? {} : { hooks }),
  };
  if (hooks === undefined) delete config.hooks;
  refuseVm(spec["vm"]);
  return {
    config,
    hostRootfs,
    // Root of a user namespace makes them as its own: crun does.
    mountPoints: hasUserNamespace
      ? []
      : mountPointsOf(placed, (path) => context.fileTypeOf(resolve(context.bundle, path))),
    exposures,
    volumes,
    disks,
    binds: flagged.binds,
    profiles: labelled?.profiles ?? [],
    warnings,
  };
}

function expose(
  exposures: Exposure[],
  hostPath: string,
  relativePath: string,
  how: Partial<Pick<Exposure, "recursive" | "overlay" | "idMapping">> = {},
): string {
  exposures.push({ hostPath, relativePath, recursive: true, ...how });
  return `${GUEST_SHARED_DIR}/${relativePath}`;
}

/** Source: random(4); proc(5) names the file. */
function bootIdMount(proc: string): Mount {
  return {
    destination: join(proc, "sys/kernel/random/boot_id"),
    type: "bind",
    source: join(GUEST_SHARED_DIR, BOOT_ID_NAME),
    options: ["bind", "ro", "nosuid", "nodev", "noexec"],
  };
}

/**
 * The hooks that run inside the namespaces of the container. A program of createContainer is named by its path on the host:
 * that one file comes into the guest, where whatever else it needs (interpreter, libraries) is the guest's.
 */
function guestHooks(hooks: Hooks | undefined, context: GuestSpecContext, exposures: Exposure[]): Hooks | undefined {
  const { createContainer = [], startContainer = [] } = hooks ?? {};
  if (createContainer.length + startContainer.length === 0) return undefined;
  const carried = createContainer.map((hook, index) => {
    const name = `hooks.createContainer.${index}`;
    const type = context.fileTypeOf(hook.path);
    if (type === "missing") throw new HearthError("not-found", `apply ${name}: ${hook.path} does not exist`);
    if (type !== "file") refuse(name, `${hook.path} is a ${type}`);
    return { ...hook, path: expose(exposures, hook.path, `${context.containerId}/hooks/${index}`) };
  });
  return {
    ...(carried.length === 0 ? {} : { createContainer: carried }),
    ...(startContainer.length === 0 ? {} : { startContainer }),
  };
}

function diskMount(mount: Mount, index: number, context: GuestSpecContext, disks: GuestDisk[]): Mount[] | undefined {
  if (isBindMount(mount)) return undefined;
  const found = guestDisk(mount, index, guestOptions(mount), context);
  if (found === undefined) return undefined;
  disks.push(found.disk);
  return [found.mount];
}

/** A bind mount of what an earlier mount has put into the container is of that, not of what the host has there. */
function remountedPart(
  mount: Mount,
  { bundle }: GuestSpecContext,
  hostRootfs: string,
  rootfs: string,
  earlier: readonly Mount[],
): Mount[] | undefined {
  if (!isBindMount(mount) || mount.source === undefined) return undefined;
  const part = mountedSource(resolve(bundle, mount.source), hostRootfs, earlier);
  if (part === undefined) return undefined;
  const around = earlier.findLast(({ destination }) => insideOf(destination, join("/", part)) !== undefined);
  const options = guestOptions(
    withFlags(mount, () => around?.options ?? []),
    true,
  );
  return [{ ...mount, options, source: join(rootfs, part) }];
}

/** Bind mounts come through the shared directory, with what is mounted below as one file system; file systems of the kernel are made in the guest. */
function guestMount(
  { mount, index, idMapping }: { mount: Mount; index: number; idMapping: MountIdMapping | undefined },
  context: GuestSpecContext,
  exposures: Exposure[],
  warnings: string[],
): Mount[] {
  if (!isBindMount(mount)) {
    const type = mount.type ?? "none";
    if (type === "overlay") return [overlayMount(mount, index, context, exposures)];
    if (!GUEST_FILESYSTEMS.has(type)) refuse(`mount ${mount.destination}`, `file system type ${type} is not supported`);
    return [mount.options === undefined ? mount : { ...mount, options: guestOptions(mount) }];
  }
  if (mount.source === undefined) {
    throw new HearthError("invalid-argument", `read config.json: mount ${mount.destination} has no source`);
  }
  const hostPath = resolve(context.bundle, mount.source);
  const type = context.fileTypeOf(hostPath);
  switch (type) {
    case "directory":
    case "file":
      break;
    case "missing":
      throw new HearthError("not-found", `mount ${mount.destination}: source ${hostPath} does not exist`);
    case "socket":
      return refuse(
        `mount ${mount.destination}`,
        `${hostPath} is a socket of the host, which does not reach into a VM`,
      );
    case "fifo":
      return refuse(`mount ${mount.destination}`, `${hostPath} is a fifo of the host, which does not reach into a VM`);
    case "disk":
    case "device":
      return refuse(
        `mount ${mount.destination}`,
        `${hostPath} is a device of the host, which does not reach into a VM`,
      );
  }
  // Its own name comes last, where the container sees it: /proc/self/mountinfo tells what was mounted.
  const { options = [] } = mount;
  const isRecursive = options.includes("rbind") || !options.includes("bind");
  const path = `${context.containerId}/${index}/${basename(hostPath) || "root"}`;
  const how = { recursive: isRecursive, ...(idMapping === undefined ? {} : { idMapping }) };
  const source = expose(exposures, hostPath, path, how);
  const { uidMappings: _uids, gidMappings: _gids, ...others } = withFlags(mount, () => context.mountFlags(hostPath));
  const made = { ...others, options: guestOptions(others), source };
  const below = isRecursive && isReadOnly(others) ? context.mountsBelow(hostPath) : [];
  if (below.length > MOUNTS_BELOW_MAX) {
    warnings.push(
      `${below.length - MOUNTS_BELOW_MAX} mounts below ${hostPath} are read-only at ${mount.destination} too`,
    );
  }
  return [made, ...below.slice(0, MOUNTS_BELOW_MAX).map((point) => writableBelow(made, point))];
}

/** By itself: `rro` says so of what is mounted below too. */
function isReadOnly({ options = [] }: Mount): boolean {
  return options.findLast((option) => option === "ro" || option === "rw") === "ro" && !options.includes("rro");
}

/** The guest has the host's mounts in one file system, where read-only would be so of those below too: each gets a mount of its own. */
function writableBelow({ destination, source = "", options = [] }: Mount, point: string): Mount {
  const others = options.filter((option) => option !== "ro" && option !== "rbind");
  return {
    destination: join(destination, point),
    type: "bind",
    source: join(source, point),
    options: ["bind", ...others],
  };
}

/** Of an overlay, beside those with a value. Source: Linux Documentation/filesystems/overlayfs.rst. */
const OVERLAY_WORDS: ReadonlySet<string> = new Set(["userxattr", "volatile"]);

/** Its layers are on the host, so it is mounted there and comes through the shared directory: podman's `-v …:O` and image volumes. */
function overlayMount(mount: Mount, index: number, context: GuestSpecContext, exposures: Exposure[]): Mount {
  const options = guestOptions(mount);
  const isOverlays = (option: string) => option.includes("=") || OVERLAY_WORDS.has(option);
  const overlay = options.filter(isOverlays).join(",");
  const source = expose(exposures, context.bundle, `${context.containerId}/${index}/overlay`, { overlay });
  return { ...mount, type: "bind", source, options: ["bind", ...options.filter((option) => !isOverlays(option))] };
}

function guestProcess(process: Process, { security }: GuestSpecContext, warnings: string[]): LabelledProcess {
  if (process["execCPUAffinity"] !== undefined) refuse("process.execCPUAffinity", "it names CPUs of the host");
  return labelledProcess(process, security, false, warnings);
}

/** The one action that has a use for a listener. */
const SECCOMP_NOTIFY = "SCMP_ACT_NOTIFY";

function guestLinux(spec: Spec, context: GuestSpecContext, warnings: string[]): NonNullable<Spec["linux"]> {
  const linux = spec.linux ?? {};
  for (const property of ["intelRdt", "memoryPolicy"]) {
    const value = linux[property];
    if (value !== undefined && value !== null && Object.keys(value).length > 0) {
      refuse(`linux.${property}`, "it is not available in the guest");
    }
  }
  // Interfaces are moved on the host, and come with the network namespace.
  const { mountLabel, netDevices: _moved, maskedPaths, ...rest } = linux;
  if (mountLabel) dropLabel("linux.mountLabel", mountLabel, context.security, warnings);
  const { listenerPath, ...seccomp } = linux.seccomp ?? {};
  const notifies = seccomp.syscalls?.some(({ action }) => action === SECCOMP_NOTIFY) === true;
  if (listenerPath && notifies) refuse("linux.seccomp.listenerPath", "its socket is on the host");
  const resources =
    linux.resources === undefined
      ? {}
      : { resources: guestResources(linux.resources, vmRole(spec, context), warnings) };
  return {
    ...rest,
    ...rootPropagation(spec),
    ...(linux.seccomp === undefined ? {} : { seccomp }),
    // Each is a mount, and one that is masked twice would be two.
    ...(maskedPaths === undefined ? {} : { maskedPaths: [...new Set(maskedPaths)] }),
    namespaces: guestNamespaces(spec, context),
    cgroupsPath: `/hearth/${context.containerId}`,
    ...(linux.devices === undefined
      ? {}
      : { devices: guestDevices(linux.devices, linux.resources, context, warnings) }),
    ...resources,
  };
}

const PROPAGATIONS: ReadonlySet<string> = new Set(
  ["shared", "slave", "unbindable"].flatMap((name) => [name, `r${name}`]),
);

/** Without a word crun ends by making every mount private, which would undo what mounts ask for themselves. */
function rootPropagation({ mounts, linux }: Spec): { readonly rootfsPropagation?: string } {
  const asked = (mounts ?? []).some(({ options }) => (options ?? []).some((option) => PROPAGATIONS.has(option)));
  return asked && !linux?.rootfsPropagation ? { rootfsPropagation: "private" } : {};
}

/**
 * The VM is the network namespace; the others are made in the guest, or are those of a container of the same pod. A
 * container that gets to see cgroups sees its own as the root, as it does where an engine mounts those of cgroup v1.
 */
function guestNamespaces({ linux, mounts = [], annotations }: Spec, context: GuestSpecContext): Namespace[] {
  const namespaces = linux?.namespaces ?? [];
  if (!namespaces.some((namespace) => namespace.type === "network")) {
    refuse("linux.namespaces without network", "the host's network does not reach into a VM");
  }
  if (!namespaces.some((namespace) => namespace.type === "mount")) {
    refuse("linux.namespaces without mount", "the container would change the guest's own root");
  }
  const inGuest = namespaces.flatMap(({ type, path }) => {
    if (type === "network") return [];
    return [path ? joinedNamespace(type, path, annotations, context) : { type }];
  });
  const seesCgroups = mounts.some(({ type }) => type === "cgroup" || type === "cgroup2");
  if (!seesCgroups || inGuest.some(({ type }) => type === "cgroup")) return inGuest;
  return [...inGuest, { type: "cgroup" }];
}

/** Namespaces that CRI-O makes and keeps by path for a pod, before there is any container; the network's is the VM. */
const POD_NAMESPACES: ReadonlySet<string> = new Set(["ipc", "uts"]);

/**
 * An engine names the namespace of a pod's container by the pid that it knows, which is that of its shim, or by the path
 * where it keeps it: then the pod's first container has it made in the guest, and those of the same path join it.
 */
function joinedNamespace(
  type: string,
  path: string,
  annotations: Spec["annotations"],
  { containerOfPid, containerOfPath }: GuestSpecContext,
): Namespace {
  const pid = /^\/proc\/(\d{1,10})\/ns\/(?:pid|ipc|uts|time)$/.exec(path)?.[1];
  const isKept = pid === undefined && POD_NAMESPACES.has(type);
  if (isKept && podRole(annotations).kind === "sandbox") return { type };
  const containerId = pid === undefined ? isKept && containerOfPath?.(type, path) : containerOfPid(Number(pid));
  if (!containerId) {
    return refuse(
      `linux.namespaces ${type} path`,
      `${path} is of no container of the VM; another container's is joined together with its network`,
    );
  }
  return { type, path: `${CONTAINER_NAMESPACE_PREFIX}${containerId}` };
}

/** Top-level sections of other platforms are theirs (the spec says to ignore them); what one for VMs asks for is the operator's to set. */
function refuseVm(vm: unknown): void {
  if (typeof vm !== "object" || vm === null) return;
  const [property] = Object.keys(vm);
  if (property !== undefined) refuse(`vm.${property}`, "the VM is made from the host's configuration");
}
