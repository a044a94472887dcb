/**
 * The OCI configuration out of its protobuf form, for clients that send `OCI` instead of JSON. Protobuf cannot tell an
 * absent number from zero: a zero is left out wherever the OCI property is optional and zero means "unchanged".
 */
import type {
  Hook,
  Hooks,
  Linux,
  LinuxBlockIO,
  LinuxCPU,
  LinuxDevice,
  LinuxDeviceCgroup,
  LinuxMemory,
  LinuxResources,
  LinuxSeccomp,
  LinuxThrottleDevice,
  Process,
  Spec,
} from "../../gen/oci_pb.ts";

/** A JSON value; bigint stands for an integer that JSON would round. */
export type Json = string | number | boolean | bigint | readonly Json[] | { readonly [key: string]: Json | undefined };
type JsonObject = { readonly [key: string]: Json | undefined };

/** The whole configuration, ready for stringifyOciJson. */
export function ociFromSpec(spec: Spec): JsonObject {
  return compact({
    ociVersion: spec.Version === "" ? "1.0.2" : spec.Version,
    process: spec.Process && ociFromProcess(spec.Process),
    root: spec.Root && compact({ path: spec.Root.Path, readonly: truthy(spec.Root.Readonly) }),
    hostname: text(spec.Hostname),
    mounts: list(spec.Mounts, (mount) =>
      compact({
        destination: mount.destination,
        type: text(mount.type),
        source: text(mount.source),
        options: strings(mount.options),
      }),
    ),
    hooks: spec.Hooks && hooks(spec.Hooks),
    annotations: Object.keys(spec.Annotations).length === 0 ? undefined : spec.Annotations,
    linux: spec.Linux && linux(spec.Linux),
  });
}

/** The process of a container, or one more for exec. */
export function ociFromProcess(process: Process): JsonObject {
  const { Capabilities: caps, User: user, ConsoleSize: size } = process;
  return compact({
    terminal: truthy(process.Terminal),
    consoleSize:
      size === undefined || (size.Height === 0 && size.Width === 0)
        ? undefined
        : { height: size.Height, width: size.Width },
    user: compact({
      uid: user?.UID ?? 0,
      gid: user?.GID ?? 0,
      additionalGids: list(user?.AdditionalGids ?? [], (gid) => gid),
      username: text(user?.Username ?? ""),
    }),
    args: [...process.Args],
    env: strings(process.Env),
    cwd: process.Cwd === "" ? "/" : process.Cwd,
    capabilities:
      caps &&
      compact({
        bounding: strings(caps.Bounding),
        effective: strings(caps.Effective),
        inheritable: strings(caps.Inheritable),
        permitted: strings(caps.Permitted),
        ambient: strings(caps.Ambient),
      }),
    rlimits: list(process.Rlimits, ({ Type, Hard, Soft }) => ({ type: Type, hard: Hard, soft: Soft })),
    noNewPrivileges: truthy(process.NoNewPrivileges),
    apparmorProfile: text(process.ApparmorProfile),
    oomScoreAdj: signed(process.OOMScoreAdj),
    selinuxLabel: text(process.SelinuxLabel),
  });
}

/** The resources of a container, also as `update` takes them. */
export function ociFromResources(resources: LinuxResources): JsonObject {
  const { Memory: memory, CPU: cpu, Pids: pids, BlockIO: blockIo, Network: network } = resources;
  return compact({
    devices: list(resources.Devices, cgroupDevice),
    memory: memory && nonEmpty(memoryLimits(memory)),
    cpu: cpu && nonEmpty(cpuLimits(cpu)),
    pids: pids === undefined || pids.Limit === 0n ? undefined : { limit: pids.Limit },
    blockIO: blockIo && nonEmpty(blockIoLimits(blockIo)),
    hugepageLimits: list(resources.HugepageLimits, ({ Pagesize, Limit }) => ({ pageSize: Pagesize, limit: Limit })),
    network:
      network &&
      nonEmpty(
        compact({
          classID: network.ClassID === 0 ? undefined : network.ClassID,
          priorities: list(network.Priorities, ({ Name, Priority }) => ({ name: Name, priority: Priority })),
        }),
      ),
  });
}

function cgroupDevice(device: LinuxDeviceCgroup): JsonObject {
  return compact({
    allow: device.Allow,
    type: text(device.Type),
    // The OCI default of an absent number is "any", which clients send as -1 or leave at zero for both.
    major: device.Major > 0n || (device.Major === 0n && device.Minor > 0n) ? device.Major : undefined,
    minor: device.Minor > 0n || (device.Minor === 0n && device.Major > 0n) ? device.Minor : undefined,
    access: text(device.Access),
  });
}

function memoryLimits(memory: LinuxMemory): JsonObject {
  return compact({
    limit: signed(memory.Limit),
    reservation: signed(memory.Reservation),
    swap: signed(memory.Swap),
    kernel: signed(memory.Kernel),
    kernelTCP: signed(memory.KernelTCP),
    swappiness: signed(memory.Swappiness),
    disableOOMKiller: truthy(memory.DisableOOMKiller),
  });
}

function cpuLimits(cpu: LinuxCPU): JsonObject {
  return compact({
    shares: signed(cpu.Shares),
    quota: signed(cpu.Quota),
    period: signed(cpu.Period),
    realtimeRuntime: signed(cpu.RealtimeRuntime),
    realtimePeriod: signed(cpu.RealtimePeriod),
    cpus: text(cpu.Cpus),
    mems: text(cpu.Mems),
  });
}

function blockIoLimits(blockIo: LinuxBlockIO): JsonObject {
  return compact({
    weight: blockIo.Weight === 0 ? undefined : blockIo.Weight,
    leafWeight: blockIo.LeafWeight === 0 ? undefined : blockIo.LeafWeight,
    weightDevice: list(blockIo.WeightDevice, (device) =>
      compact({
        major: device.Major,
        minor: device.Minor,
        weight: device.Weight === 0 ? undefined : device.Weight,
        leafWeight: device.LeafWeight === 0 ? undefined : device.LeafWeight,
      }),
    ),
    throttleReadBpsDevice: list(blockIo.ThrottleReadBpsDevice, throttle),
    throttleWriteBpsDevice: list(blockIo.ThrottleWriteBpsDevice, throttle),
    throttleReadIOPSDevice: list(blockIo.ThrottleReadIOPSDevice, throttle),
    throttleWriteIOPSDevice: list(blockIo.ThrottleWriteIOPSDevice, throttle),
  });
}

function throttle(device: LinuxThrottleDevice): JsonObject {
  return { major: device.Major, minor: device.Minor, rate: device.Rate };
}

function hooks(from: Hooks): JsonObject | undefined {
  return nonEmpty(
    compact({
      prestart: list(from.Prestart, hook),
      createRuntime: list(from.CreateRuntime, hook),
      createContainer: list(from.CreateContainer, hook),
      startContainer: list(from.StartContainer, hook),
      poststart: list(from.Poststart, hook),
      poststop: list(from.Poststop, hook),
    }),
  );
}

function hook(from: Hook): JsonObject {
  return compact({
    path: from.Path,
    args: strings(from.Args),
    env: strings(from.Env),
    timeout: signed(from.Timeout),
  });
}

function linux(from: Linux): JsonObject {
  const mapping = (map: { HostID: number; ContainerID: number; Size: number }): JsonObject => ({
    containerID: map.ContainerID,
    hostID: map.HostID,
    size: map.Size,
  });
  return compact({
    uidMappings: list(from.UIDMappings, mapping),
    gidMappings: list(from.GIDMappings, mapping),
    sysctl: Object.keys(from.Sysctl).length === 0 ? undefined : from.Sysctl,
    resources: from.Resources && ociFromResources(from.Resources),
    cgroupsPath: text(from.CgroupsPath),
    namespaces: list(from.Namespaces, ({ Type, Path }) => compact({ type: Type, path: text(Path) })),
    devices: list(from.Devices, device),
    seccomp: from.Seccomp && seccomp(from.Seccomp),
    rootfsPropagation: text(from.RootfsPropagation),
    maskedPaths: strings(from.MaskedPaths),
    readonlyPaths: strings(from.ReadonlyPaths),
    mountLabel: text(from.MountLabel),
    intelRdt: from.IntelRdt && nonEmpty(compact({ l3CacheSchema: text(from.IntelRdt.L3CacheSchema) })),
  });
}

function device(from: LinuxDevice): JsonObject {
  return compact({
    path: from.Path,
    type: from.Type,
    major: from.Major,
    minor: from.Minor,
    fileMode: from.FileMode === 0 ? undefined : from.FileMode,
    uid: from.UID,
    gid: from.GID,
  });
}

/** No default action is no filter: Go's clients send an empty message for "none". */
function seccomp(from: LinuxSeccomp): JsonObject | undefined {
  if (from.DefaultAction === "") return undefined;
  return compact({
    defaultAction: from.DefaultAction,
    architectures: strings(from.Architectures),
    flags: strings(from.Flags),
    syscalls: list(from.Syscalls, (syscall) =>
      compact({
        names: [...syscall.Names],
        action: syscall.Action,
        errnoRet: syscall.ErrnoRet.case === "errnoret" ? syscall.ErrnoRet.value : undefined,
        args: list(syscall.Args, (arg) =>
          compact({
            index: arg.Index,
            value: arg.Value,
            valueTwo: arg.ValueTwo === 0n ? undefined : arg.ValueTwo,
            op: arg.Op,
          }),
        ),
      }),
    ),
  });
}

function list<T>(from: readonly T[], each: (item: T) => Json): Json[] | undefined {
  return from.length === 0 ? undefined : from.map(each);
}

function strings(from: readonly string[]): Json | undefined {
  return from.length === 0 ? undefined : [...from];
}

function text(from: string): string | undefined {
  return from === "" ? undefined : from;
}

function truthy(from: boolean): true | undefined {
  return from ? true : undefined;
}

function signed(from: bigint): bigint | undefined {
  return from === 0n ? undefined : from;
}

function nonEmpty(from: JsonObject): JsonObject | undefined {
  return Object.keys(from).length === 0 ? undefined : from;
}

/** Without the properties that are undefined. */
function compact(from: { readonly [key: string]: Json | undefined }): JsonObject {
  return Object.fromEntries(Object.entries(from).filter(([, value]) => value !== undefined));
}
