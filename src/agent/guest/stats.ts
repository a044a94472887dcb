/** Counters of a container from its cgroup (version 2), and of the sandbox's network interfaces. */
import { readdirSync, readFileSync } from "node:fs";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { isNotFound, toHearthError } from "../../errors.ts";
import type {
  BlkioStatsSchema,
  CgroupStatsSchema,
  CpuStatsSchema,
  HugetlbStatsSchema,
  MemoryStatsSchema,
  NetworkStatsSchema,
  StatsContainerResponseSchema,
} from "../../gen/agent_pb.ts";
import { flatKeyed, readCgroupFile } from "./cgroup.ts";

/** What "max" counts as. */
const UNLIMITED = 2n ** 64n - 1n;
const NANOSECONDS_PER_MICROSECOND = 1000n;

/** Content of a cgroup file by name, undefined when it is not there. */
type ReadFile = (name: string) => string | undefined;

/** Without a cgroup only the network is known. */
export function containerStats(cgroupDir: string | undefined): MessageInitShape<typeof StatsContainerResponseSchema> {
  const networkStats = parseNetworkStats(readNetDev());
  if (cgroupDir === undefined) return { networkStats };
  return {
    cgroupStats: cgroupStats((name) => readCgroupFile(cgroupDir, name), hugePageSizes(cgroupDir)),
    networkStats,
  };
}

export function cgroupStats(
  read: ReadFile,
  hugePages: readonly string[] = [],
): MessageInitShape<typeof CgroupStatsSchema> {
  const hugetlbStats: Record<string, MessageInitShape<typeof HugetlbStatsSchema>> = {};
  for (const size of hugePages) {
    hugetlbStats[size] = {
      usage: single(read(`hugetlb.${size}.current`)),
      failcnt: counter(flatKeyed(read(`hugetlb.${size}.events`) ?? ""), "max"),
    };
  }
  return {
    cpuStats: cpuStats(flatKeyed(read("cpu.stat") ?? "")),
    memoryStats: memoryStats(read),
    pidsStats: {
      current: single(read("pids.current")),
      // runc reports "no limit" as zero here.
      limit: zeroIfUnlimited(single(read("pids.max"))),
    },
    blkioStats: blkioStats(read("io.stat") ?? ""),
    hugetlbStats,
  };
}

function cpuStats(stat: ReadonlyMap<string, string>): MessageInitShape<typeof CpuStatsSchema> {
  const nanoseconds = (name: string): bigint => counter(stat, name) * NANOSECONDS_PER_MICROSECOND;
  return {
    cpuUsage: {
      totalUsage: nanoseconds("usage_usec"),
      usageInKernelmode: nanoseconds("system_usec"),
      usageInUsermode: nanoseconds("user_usec"),
    },
    throttlingData: {
      periods: counter(stat, "nr_periods"),
      throttledPeriods: counter(stat, "nr_throttled"),
      throttledTime: nanoseconds("throttled_usec"),
    },
  };
}

function memoryStats(read: ReadFile): MessageInitShape<typeof MemoryStatsSchema> {
  const stat = flatKeyed(read("memory.stat") ?? "");
  const events = flatKeyed(read("memory.events") ?? "");
  const usage = single(read("memory.current"));
  const limit = single(read("memory.max"));
  const swapLimit = single(read("memory.swap.max"));
  const stats: Record<string, bigint> = {};
  for (const name of stat.keys()) stats[name] = counter(stat, name);
  return {
    cache: counter(stat, "file"),
    usage: { usage, maxUsage: single(read("memory.peak")), failcnt: counter(events, "max"), limit },
    // With memory, as engines expect it since version 1; version 2 counts swap alone.
    swapUsage: {
      usage: usage + single(read("memory.swap.current")),
      failcnt: counter(flatKeyed(read("memory.swap.events") ?? ""), "max"),
      limit: limit === UNLIMITED || swapLimit === UNLIMITED ? UNLIMITED : limit + swapLimit,
    },
    kernelUsage: { usage: counter(stat, "kernel") },
    useHierarchy: true,
    stats,
  };
}

const BLKIO_OPERATIONS = [
  ["rbytes", "Read", "bytes"],
  ["wbytes", "Write", "bytes"],
  ["dbytes", "Discard", "bytes"],
  ["rios", "Read", "count"],
  ["wios", "Write", "count"],
  ["dios", "Discard", "count"],
] as const;

/** "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6" a line. */
export function blkioStats(text: string): MessageInitShape<typeof BlkioStatsSchema> {
  const bytes: { major: bigint; minor: bigint; op: string; value: bigint }[] = [];
  const counts: typeof bytes = [];
  for (const line of text.split("\n")) {
    const [device = "", ...fields] = line.split(" ");
    const numbers = /^(\d+):(\d+)$/.exec(device);
    if (numbers === null) continue;
    const values = new Map(fields.map((field): [string, string] => pair(field, "=")));
    for (const [name, op, unit] of BLKIO_OPERATIONS) {
      if (!values.has(name)) continue;
      const entry = {
        major: BigInt(numbers[1] ?? 0),
        minor: BigInt(numbers[2] ?? 0),
        op,
        value: counter(values, name),
      };
      (unit === "bytes" ? bytes : counts).push(entry);
    }
  }
  return { ioServiceBytesRecursive: bytes, ioServicedRecursive: counts };
}

/** /proc/net/dev without the loopback. Source: net/core/net-procfs.c. */
export function parseNetworkStats(text: string): MessageInitShape<typeof NetworkStatsSchema>[] {
  const interfaces: MessageInitShape<typeof NetworkStatsSchema>[] = [];
  for (const line of text.split("\n").slice(2)) {
    const [name, rest] = pair(line, ":");
    if (rest === "" || name.trim() === "lo") continue;
    const values = rest.trim().split(/\s+/).map(BigInt);
    const at = (index: number): bigint => values[index] ?? 0n;
    interfaces.push({
      name: name.trim(),
      rxBytes: at(0),
      rxPackets: at(1),
      rxErrors: at(2),
      rxDropped: at(3),
      txBytes: at(8),
      txPackets: at(9),
      txErrors: at(10),
      txDropped: at(11),
    });
  }
  return interfaces;
}

function readNetDev(): string {
  try {
    return readFileSync("/proc/net/dev", "utf8");
  } catch (thrown) {
    throw toHearthError(thrown, "read /proc/net/dev");
  }
}

function hugePageSizes(cgroupDir: string): string[] {
  try {
    return readdirSync(cgroupDir).flatMap((name) => /^hugetlb\.(\w+)\.current$/.exec(name)?.[1] ?? []);
  } catch (thrown) {
    if (isNotFound(thrown)) return [];
    throw toHearthError(thrown, `list cgroup ${cgroupDir}`);
  }
}

/** A file that holds one number or "max". */
function single(text: string | undefined): bigint {
  const value = text?.trim() ?? "";
  if (value === "max") return UNLIMITED;
  return /^\d+$/.test(value) ? BigInt(value) : 0n;
}

function zeroIfUnlimited(value: bigint): bigint {
  return value === UNLIMITED ? 0n : value;
}

function counter(values: ReadonlyMap<string, string>, name: string): bigint {
  return single(values.get(name));
}

function pair(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}
