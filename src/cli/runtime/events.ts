/** `events`: lines of resource usage and of OOM kills of a container, in runc's form, until it ends; or the usage once. */
import { HearthError } from "../../errors.ts";
import type { BlkioStatsEntry, MemoryData, StatsContainerResponse } from "../../gen/agent_pb.ts";
import { OOM_AFTER_END_MS } from "../../limits.ts";
import { canSignal, statusOf } from "../../oci/container-record.ts";
import { readContainer } from "../../oci/container-store.ts";
import { stringifyOciJson } from "../../oci/json.ts";
import { decodeStats } from "../../rpc/protocols.ts";
import { isSandboxGone, type SandboxConnection } from "../../rpc/sandbox-connection.ts";
import { goDurationMs } from "../../util/go-duration.ts";
import { sleep } from "../../util/wait.ts";
import { writeOut } from "../output.ts";
import { UsageError } from "../usage-error.ts";
import { defineRuntimeCommand, onlyContainerId } from "./command.ts";
import { withSandbox } from "./with-sandbox.ts";

const INTERVAL_DEFAULT = "5s";
/** Longest that a timer can wait. Source: setTimeout(), 2^31-1 ms. */
const INTERVAL_MS_MAX = 2_147_483_647;

export const command = defineRuntimeCommand({
  flags: {
    stats: { type: "boolean", help: "print the usage once" },
    interval: { type: "string", value: "TIME", help: "time between two lines of usage (default: 5s)" },
  },
  positionals: "<container-id>",
  async run(context, flags, positionals) {
    const id = onlyContainerId(positionals);
    const intervalMs = intervalOf(flags.interval ?? INTERVAL_DEFAULT);
    const record = readContainer(await context.root(), id);
    if (intervalMs <= 0) throw new HearthError("invalid-argument", "duration interval must be greater than 0");
    if (!canSignal(statusOf(record))) {
      throw new HearthError("failed-precondition", `container with id ${id} is not running`, { facts: { id } });
    }
    await withSandbox(context, record, async (sandbox, timeoutMs) => {
      if (flags.stats) await printStats(sandbox, id, timeoutMs);
      else await stream({ sandbox, id, timeoutMs, intervalMs });
    });
  },
});

function intervalOf(text: string): number {
  const ms = goDurationMs(text);
  if (ms === undefined) {
    throw new UsageError(`invalid value ${JSON.stringify(text)} for flag --interval: parse error`);
  }
  return Math.min(ms, INTERVAL_MS_MAX);
}

type Sandbox = SandboxConnection["sandbox"];

interface EventStream {
  readonly sandbox: Sandbox;
  readonly id: string;
  readonly timeoutMs: number;
  readonly intervalMs: number;
}

async function printStats(sandbox: Sandbox, id: string, timeoutMs: number): Promise<void> {
  const { stats } = await sandbox.containerStats({ containerId: id }, { timeoutMs });
  await printEvent({ type: "stats", id, data: statsData(decodeStats(stats)) });
}

async function printEvent(event: object): Promise<void> {
  await writeOut(`${stringifyOciJson(event)}\n`);
}

/** Ends with the container, or with the VM that takes it along. */
async function stream(events: EventStream): Promise<void> {
  const { sandbox, id } = events;
  const stop = new AbortController();
  const ended = sandbox.waitProcess({ containerId: id, execId: "" }, { signal: stop.signal });
  const tasks = [printAtIntervals(events, stop.signal), printOoms(events, stop.signal)];
  try {
    await Promise.race([ended, ...tasks]);
    // The kill that ended it is told at the same time, by another call.
    await sleep(OOM_AFTER_END_MS);
  } catch (thrown) {
    const gone = isSandboxGone(thrown) || (thrown instanceof HearthError && thrown.code === "not-found");
    if (!gone) throw thrown;
  } finally {
    stop.abort();
    await Promise.allSettled([ended, ...tasks]);
  }
}

async function printAtIntervals({ sandbox, id, timeoutMs, intervalMs }: EventStream, stop: AbortSignal): Promise<void> {
  for (;;) {
    await sleep(intervalMs, stop);
    await printStats(sandbox, id, timeoutMs);
  }
}

async function printOoms({ sandbox, id }: EventStream, stop: AbortSignal): Promise<void> {
  for (;;) {
    await sandbox.waitOom({ containerId: id }, { signal: stop });
    await printEvent({ type: "oom", id });
  }
}

/** The agent's numbers under the names that runc gives them. Source: runc, types/events.go. */
export function statsData({ cgroupStats, networkStats }: StatsContainerResponse): object {
  const { cpuStats, memoryStats, pidsStats, blkioStats, hugetlbStats } = cgroupStats ?? {};
  const hugetlb = Object.entries(hugetlbStats ?? {}).map(([size, { usage, maxUsage, failcnt }]) => [
    size,
    { usage, max: maxUsage, failcnt },
  ]);
  return {
    cpu: {
      usage: {
        total: cpuStats?.cpuUsage?.totalUsage,
        percpu: cpuStats?.cpuUsage?.percpuUsage,
        kernel: cpuStats?.cpuUsage?.usageInKernelmode,
        user: cpuStats?.cpuUsage?.usageInUsermode,
      },
      throttling: {
        periods: cpuStats?.throttlingData?.periods,
        throttledPeriods: cpuStats?.throttlingData?.throttledPeriods,
        throttledTime: cpuStats?.throttlingData?.throttledTime,
      },
    },
    memory: {
      cache: memoryStats?.cache,
      usage: memoryEntry(memoryStats?.usage),
      swap: memoryEntry(memoryStats?.swapUsage),
      kernel: memoryEntry(memoryStats?.kernelUsage),
      raw: memoryStats?.stats ?? {},
    },
    pids: { current: pidsStats?.current, limit: pidsStats?.limit },
    blkio: {
      ioServiceBytesRecursive: blkioEntries(blkioStats?.ioServiceBytesRecursive),
      ioServicedRecursive: blkioEntries(blkioStats?.ioServicedRecursive),
    },
    hugetlb: Object.fromEntries(hugetlb),
    intel_rdt: {},
    network_interfaces: networkStats.map((each) => ({
      Name: each.name,
      RxBytes: each.rxBytes,
      RxPackets: each.rxPackets,
      RxErrors: each.rxErrors,
      RxDropped: each.rxDropped,
      TxBytes: each.txBytes,
      TxPackets: each.txPackets,
      TxErrors: each.txErrors,
      TxDropped: each.txDropped,
    })),
  };
}

function memoryEntry(entry: MemoryData | undefined): object {
  return { limit: entry?.limit, usage: entry?.usage, max: entry?.maxUsage, failcnt: entry?.failcnt };
}

function blkioEntries(entries: readonly BlkioStatsEntry[] | undefined): object[] {
  return (entries ?? []).map(({ major, minor, op, value }) => ({ major, minor, op, value }));
}
