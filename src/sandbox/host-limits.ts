/**
 * The limits of a container that hold for its whole VM, on the cgroup of the host that QEMU, virtiofsd and shim are in: CPU time,
 * CPUs and memory nodes, and block I/O, whose devices are the host's. Memory is bounded by the VM's size (host-memory.ts). Processes
 * are the guest's to limit: those of the host are the VM's, a fixed few, and one shim for each that an engine started.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { HearthError, toHearthError } from "../errors.ts";
import { completeCpuMax } from "../oci/cpu-max.ts";
import type { Resources } from "../oci/spec.ts";
import { cgroupVersion } from "./cgroup.ts";

/** One value for one file of a cgroup. */
export interface LimitWrite {
  readonly file: string;
  readonly value: string;
  /** Property of linux.resources, for messages. */
  readonly property: string;
}

/** Writes for cgroup v1, in an order that a new cgroup takes. Source: OCI runtime spec, config-linux.md, file names. */
export function limitsV1({ cpu, blockIO }: Resources): LimitWrite[] {
  return [
    ...one("cpu.shares", cpu?.shares, "cpu.shares"),
    ...one("cpu.cfs_period_us", cpu?.period, "cpu.period"),
    ...one("cpu.cfs_quota_us", cpu?.quota, "cpu.quota"),
    ...one("cpu.cfs_burst_us", cpu?.burst, "cpu.burst"),
    ...one("cpu.idle", cpu?.idle, "cpu.idle"),
    ...one("cpuset.cpus", cpu?.cpus, "cpu.cpus"),
    ...one("cpuset.mems", cpu?.mems, "cpu.mems"),
    ...one("blkio.weight", blockIO?.weight, "blockIO.weight"),
    ...one("blkio.leaf_weight", blockIO?.leafWeight, "blockIO.leafWeight"),
    ...(blockIO?.weightDevice ?? []).flatMap(({ major, minor, weight, leafWeight }) => [
      ...one("blkio.weight_device", weight, "blockIO.weightDevice", `${major}:${minor} `),
      ...one("blkio.leaf_weight_device", leafWeight, "blockIO.weightDevice", `${major}:${minor} `),
    ]),
    ...THROTTLES.flatMap(({ property, v1 }) =>
      (blockIO?.[property] ?? []).map(({ major, minor, rate }) => ({
        file: v1,
        value: `${major}:${minor} ${rate}`,
        property: `blockIO.${property}`,
      })),
    ),
  ];
}

/** Writes for cgroup v2. Source: kernel, Documentation/admin-guide/cgroup-v2.rst. */
export function limitsV2({ cpu, blockIO }: Resources): LimitWrite[] {
  const { quota, period, shares } = cpu ?? {};
  return [
    ...one("cpu.weight", shares === undefined ? undefined : cpuWeight(BigInt(shares)), "cpu.shares"),
    ...(quota === undefined && period === undefined
      ? []
      : [{ file: "cpu.max", value: cpuMax(quota, period), property: "cpu.quota" }]),
    ...one("cpu.max.burst", cpu?.burst, "cpu.burst"),
    ...one("cpu.idle", cpu?.idle, "cpu.idle"),
    ...one("cpuset.cpus", cpu?.cpus, "cpu.cpus"),
    ...one("cpuset.mems", cpu?.mems, "cpu.mems"),
    ...one("io.bfq.weight", blockIO?.weight, "blockIO.weight"),
    ...(blockIO?.weightDevice ?? []).flatMap(({ major, minor, weight }) =>
      one("io.bfq.weight", weight, "blockIO.weightDevice", `${major}:${minor} `),
    ),
    ...THROTTLES.flatMap(({ property, v2 }) =>
      (blockIO?.[property] ?? []).map(({ major, minor, rate }) => ({
        file: "io.max",
        value: `${major}:${minor} ${v2}=${rate}`,
        property: `blockIO.${property}`,
      })),
    ),
  ];
}

const THROTTLES = [
  { property: "throttleReadBpsDevice", v1: "blkio.throttle.read_bps_device", v2: "rbps" },
  { property: "throttleWriteBpsDevice", v1: "blkio.throttle.write_bps_device", v2: "wbps" },
  { property: "throttleReadIOPSDevice", v1: "blkio.throttle.read_iops_device", v2: "riops" },
  { property: "throttleWriteIOPSDevice", v1: "blkio.throttle.write_iops_device", v2: "wiops" },
] as const;

/** Nothing for a value that is absent, empty or 0, which all mean "not set"; but of what 0 takes back, 0 is written. */
function one(file: string, value: string | number | bigint | undefined, property: string, prefix = ""): LimitWrite[] {
  const isZero = value === 0 || value === 0n;
  if (value === undefined || value === "" || (isZero && !RESETTABLE.has(property))) return [];
  return [{ file, value: `${prefix}${value}`, property }];
}

/** 0 takes them back; a kernel that has no such file has nothing to take back. */
const RESETTABLE: ReadonlySet<string> = new Set(["cpu.burst", "cpu.idle"]);

/** 2 to 262144 shares are 1 to 10000. Source: crun(1), "CPU controller". */
function cpuWeight(shares: bigint): bigint {
  if (shares === 0n) return 0n;
  const clamped = shares < 2n ? 2n : shares > 262_144n ? 262_144n : shares;
  return 1n + ((clamped - 2n) * 9999n) / 262_142n;
}

/** Microseconds. */
const CPU_PERIOD_DEFAULT = 100_000;

function cpuMax(quota: number | bigint | undefined, period: number | bigint | undefined): string {
  return `${quota !== undefined && quota > 0 ? quota : "max"} ${period || CPU_PERIOD_DEFAULT}`;
}

/** Limits that a host's kernel may lack without harm, as engines ask for them on every host: a warning. */
const DISPENSABLE: ReadonlySet<string> = new Set(["blockIO.weight", "blockIO.leafWeight", "blockIO.weightDevice"]);

/**
 * Sets the limits on the container's directories; returns warnings. Fails naming the property for what the kernel has no
 * file for or does not take.
 */
export function applyHostLimits(dirs: readonly string[], resources: Resources | undefined): string[] {
  if (resources === undefined || dirs.length === 0) return [];
  return cgroupVersion(dirs) === 2 ? applyV2(dirs, resources) : applyV1(dirs, resources);
}

function applyV2(dirs: readonly string[], { cpu, ...others }: Resources): string[] {
  const current = dirs.map((dir) => join(dir, "cpu.max")).find((path) => existsSync(path));
  const cpuMax = current === undefined ? "" : readFileSync(current, "utf8");
  const writes = limitsV2(cpu === undefined ? others : { ...others, cpu: completeCpuMax(cpu, cpuMax) });
  if (writes.length > 0) for (const dir of dirs) enableControllers(dir);
  return writes.flatMap((write) => applyLimit(dirs, write));
}

function applyV1(dirs: readonly string[], resources: Resources): string[] {
  const writes = limitsV1(resources);
  const quota = writes.find(({ file }) => file === "cpu.cfs_quota_us");
  return writes.flatMap((write) => {
    if (write.file !== "cpu.cfs_period_us" || quota === undefined) return applyLimit(dirs, write);
    try {
      return applyLimit(dirs, write);
    } catch {
      // Of a shorter period the old quota may be more than the parent has. As runc: the new one first.
      return [...applyLimit(dirs, quota), ...applyLimit(dirs, write)];
    }
  });
}

function applyLimit(dirs: readonly string[], { file, value, property }: LimitWrite): string[] {
  const path = dirs.map((dir) => join(dir, file)).find((candidate) => existsSync(candidate));
  const name = `linux.resources.${property}`;
  if (path === undefined) {
    if (RESETTABLE.has(property) && value === "0") return [];
    if (DISPENSABLE.has(property)) return [`${name} is not applied: the host's kernel has no ${file}`];
    throw new HearthError("unimplemented", `apply ${name}: the host's kernel has no ${file}`, { facts: { property } });
  }
  try {
    writeFileSync(path, value);
    return [];
  } catch (thrown) {
    throw toHearthError(thrown, `apply ${name} ${value}`);
  }
}

/** Controllers reach a directory of v2 when each above it hands them on. One that cannot is missed by the write itself. */
export function enableControllers(dir: string): void {
  const above: string[] = [];
  for (let at = dirname(dir); existsSync(join(at, SUBTREE_CONTROL)); at = dirname(at)) above.unshift(at);
  for (const parent of above) {
    const path = join(parent, SUBTREE_CONTROL);
    for (const controller of ["cpu", "cpuset", "io", "memory"]) {
      try {
        if (!readFileSync(path, "utf8").split(/\s+/).includes(controller)) writeFileSync(path, `+${controller}`);
      } catch {
        // The kernel has no such controller, or a process lives in the parent.
      }
    }
  }
}

const SUBTREE_CONTROL = "cgroup.subtree_control";
