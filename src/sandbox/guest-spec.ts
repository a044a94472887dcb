/**
 * Rewrites an OCI configuration for the guest: what is applied there goes on as it is, host paths become exposures of the
 * shared directory, and what cannot be applied inside a VM is an error, or a warning where engines set it by default.
 */
import { join, resolve } from "node:path";
import { HearthError } from "../errors.ts";
import type { LinuxDevice, Mount, Namespace, Process, Spec } from "../oci/spec.ts";
import { BOOT_ID_NAME } from "../paths.ts";

/** Where the agent mounts the VM's shared directory. */
export const GUEST_SHARED_DIR = "/run/hearth/shared";

/** What the guest's crun calls the spec it follows: it refuses every other minor version, whatever the file holds. */
const GUEST_OCI_VERSION = "1.0.2";

/** A host path that has to appear in the shared directory, at a path relative to it. */
export interface Exposure {
  readonly hostPath: string;
  readonly relativePath: string;
}

export interface GuestSpec {
  readonly config: Spec;
  readonly exposures: readonly Exposure[];
  readonly warnings: readonly string[];
}

export interface GuestSpecContext {
  readonly containerId: string;
  readonly bundle: string;
  /** What a bind source is on the host; "missing" where there is none. */
  readonly fileTypeOf: (hostPath: string) => HostFileType;
  /** The kernel's boot id is another VM's too: show the VM's own in its place. Default false. */
  readonly ownBootId?: boolean;
}

export type HostFileType = "directory" | "file" | "socket" | "device" | "fifo" | "missing";

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
  "overlay",
]);

/** Character devices whose numbers mean the same in every kernel. Source: Linux Documentation/admin-guide/devices.txt. */
const PORTABLE_DEVICES: ReadonlySet<string> = new Set(["c1", "c5", "c10:200", "c10:229", "c10:237"]);

/** Fails with invalid-argument or unimplemented, naming the property. */
export function toGuestSpec(spec: Spec, context: GuestSpecContext): GuestSpec {
  const warnings: string[] = [];
  const exposures: Exposure[] = [];
  const rootPath = spec.root?.path;
  if (rootPath === undefined) throw new HearthError("invalid-argument", "read config.json: root.path is missing");
  const rootfs = expose(exposures, resolve(context.bundle, rootPath), `${context.containerId}/rootfs`);
  const mounts = (spec.mounts ?? []).flatMap((mount, index) => [
    guestMount(mount, index, context, exposures),
    ...(context.ownBootId === true && mount.type === "proc" ? [bootIdMount(mount.destination)] : []),
  ]);
  const config: Spec = {
    ...spec,
    ociVersion: GUEST_OCI_VERSION,
    root: { ...spec.root, path: rootfs },
    mounts,
    ...(spec.process === undefined ? {} : { process: guestProcess(spec.process, warnings) }),
    linux: guestLinux(spec, context, warnings),
  };
  config.hooks = spec.hooks?.startContainer === undefined ? undefined : { startContainer: spec.hooks.startContainer };
  if ((spec.hooks?.createContainer ?? []).length > 0) {
    refuse("hooks.createContainer", "its program is on the host and its namespaces are in the VM");
  }
  refuseUnknown(spec, warnings);
  return { config, exposures, warnings };
}

function expose(exposures: Exposure[], hostPath: string, relativePath: string): string {
  exposures.push({ hostPath, relativePath });
  return `${GUEST_SHARED_DIR}/${relativePath}`;
}

function refuse(property: string, why: string): never {
  throw new HearthError("unimplemented", `apply ${property}: ${why}`, { facts: { property } });
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

/** Bind mounts come through the shared directory; file systems of the kernel are made in the guest. */
function guestMount(mount: Mount, index: number, context: GuestSpecContext, exposures: Exposure[]): Mount {
  const options = mount.options ?? [];
  const isBind = mount.type === "bind" || options.includes("bind") || options.includes("rbind");
  if (!isBind) {
    const type = mount.type ?? "none";
    if (!GUEST_FILESYSTEMS.has(type)) refuse(`mount ${mount.destination}`, `file system type ${type} is not supported`);
    if (type === "overlay")
      refuse(`mount ${mount.destination}`, "its layers are on the host; mount it there and bind it");
    return mount;
  }
  if (mount.source === undefined) {
    throw new HearthError("invalid-argument", `read config.json: mount ${mount.destination} has no source`);
  }
  if ((mount.uidMappings ?? []).length > 0 || (mount.gidMappings ?? []).length > 0) {
    refuse(`mount ${mount.destination} uidMappings`, "the shared file system has no id-mapped mounts");
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
    case "device":
      return refuse(
        `mount ${mount.destination}`,
        `${hostPath} is a device of the host, which does not reach into a VM`,
      );
  }
  return { ...mount, source: expose(exposures, hostPath, `${context.containerId}/mounts/${index}`) };
}

function guestProcess(process: Process, warnings: string[]): Process {
  const { apparmorProfile, selinuxLabel, ...rest } = process;
  if (apparmorProfile)
    warnings.push(`process.apparmorProfile ${apparmorProfile} is not applied: the guest has no AppArmor`);
  if (selinuxLabel) warnings.push(`process.selinuxLabel ${selinuxLabel} is not applied: the guest has no SELinux`);
  for (const property of ["scheduler", "ioPriority", "execCPUAffinity"]) {
    if (rest[property] !== undefined) refuse(`process.${property}`, "the guest's crun does not know it");
  }
  return rest;
}

function guestLinux(spec: Spec, context: GuestSpecContext, warnings: string[]): NonNullable<Spec["linux"]> {
  const linux = spec.linux ?? {};
  for (const property of ["intelRdt", "timeOffsets", "netDevices", "memoryPolicy"]) {
    const value = linux[property];
    if (value !== undefined && value !== null && Object.keys(value).length > 0) {
      refuse(`linux.${property}`, "it is not available in the guest");
    }
  }
  const { mountLabel, ...rest } = linux;
  if (mountLabel) warnings.push(`linux.mountLabel ${mountLabel} is not applied: the guest has no SELinux`);
  if (linux.seccomp?.["listenerPath"]) refuse("linux.seccomp.listenerPath", "its socket is on the host");
  const resources = linux.resources === undefined ? {} : { resources: guestResources(linux.resources, warnings) };
  return {
    ...rest,
    namespaces: guestNamespaces(linux.namespaces ?? []),
    cgroupsPath: `/hearth/${context.containerId}`,
    ...(linux.devices === undefined ? {} : { devices: linux.devices.map(guestDevice) }),
    ...resources,
  };
}

/** The VM is the network namespace; the others are made in the guest. */
function guestNamespaces(namespaces: readonly Namespace[]): Namespace[] {
  if (!namespaces.some((namespace) => namespace.type === "network")) {
    refuse("linux.namespaces without network", "the host's network does not reach into a VM");
  }
  return namespaces.flatMap((namespace) => {
    if (namespace.type === "network") return [];
    if (namespace.type === "time") return refuse("linux.namespaces time", "the guest's crun does not know it");
    if (namespace.path) {
      return refuse(`linux.namespaces ${namespace.type} path`, `${namespace.path} is a namespace of the host`);
    }
    return [{ type: namespace.type }];
  });
}

function guestDevice(device: LinuxDevice): LinuxDevice {
  if (device.type === "p") return device;
  const family = `${device.type === "u" ? "c" : device.type}${device.major}`;
  if (PORTABLE_DEVICES.has(family) || PORTABLE_DEVICES.has(`${family}:${device.minor}`)) return device;
  return refuse(
    `linux.devices ${device.path}`,
    `${device.type} ${device.major}:${device.minor} is a device of the host, which does not reach into a VM`,
  );
}

type Resources = NonNullable<NonNullable<Spec["linux"]>["resources"]>;

/** Limits are set on the container's cgroup in the guest, in so far as they do not name devices or CPUs of the host. */
function guestResources(resources: Resources, warnings: string[]): Resources {
  const { network, rdma, blockIO, cpu, ...rest } = resources;
  if (network !== undefined && Object.keys(network).length > 0) {
    refuse("linux.resources.network", "cgroup v2, which the guest has, knows no network classes");
  }
  if (rdma !== undefined && Object.keys(rdma).length > 0)
    refuse("linux.resources.rdma", "the guest has no RDMA devices");
  if (blockIO !== undefined) {
    const throttled = Object.entries(blockIO).filter(([, value]) => Array.isArray(value) && value.length > 0);
    if (throttled.length > 0) refuse(`linux.resources.blockIO.${throttled[0]?.[0]}`, "it names a device of the host");
    if (blockIO["weight"])
      warnings.push("linux.resources.blockIO.weight is not applied: the guest has no weighing I/O scheduler");
  }
  if (cpu === undefined) return rest;
  const { cpus, mems, ...shares } = cpu;
  if (cpus) warnings.push(`linux.resources.cpu.cpus ${cpus} is not applied: it names CPUs of the host`);
  if (mems) warnings.push(`linux.resources.cpu.mems ${mems} is not applied: it names memory nodes of the host`);
  for (const property of ["realtimeRuntime", "realtimePeriod"]) {
    if (shares[property])
      refuse(`linux.resources.cpu.${property}`, "cgroup v2, which the guest has, has no such limit");
  }
  return { ...rest, cpu: shares };
}

/** Top-level sections of other platforms are theirs (the spec says to ignore them); one for VMs must not be dropped silently. */
function refuseUnknown(spec: Spec, warnings: string[]): void {
  if (spec["vm"] !== undefined) warnings.push("vm is not applied: the VM is made from the host's configuration");
}
