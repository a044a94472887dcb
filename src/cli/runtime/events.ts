/** `events --stats`: one line of resource usage of a container, in runc's form. A stream of events is not supported. */
import { HearthError } from "../../errors.ts";
import type { BlkioStatsEntry, MemoryData, StatsContainerResponse } from "../../gen/agent_pb.ts";
import { canSignal, statusOf } from "../../oci/container-record.ts";
import { readContainer } from "../../oci/container-store.ts";
import { stringifyOciJson } from "../../oci/json.ts";
import { decodeStats } from "../../rpc/protocols.ts";
import { writeOut } from "../output.ts";
import { defineRuntimeCommand, onlyContainerId } from "./command.ts";
import { withSandbox } from "./with-sandbox.ts";

export const command = defineRuntimeCommand({
  flags: {
    stats: { type: "boolean", help: "print the usage once (required)" },
    interval: { type: "string", value: "TIME", help: "accepted with --stats, which prints once" },
  },
  positionals: "<container-id>",
  async run(context, flags, positionals) {
    const id = onlyContainerId(positionals);
    if (!flags.stats) {
      throw new HearthError("unimplemented", "print events as they happen: not supported, only events --stats");
    }
    const record = readContainer(await context.root(), id);
    if (!canSignal(statusOf(record))) {
      throw new HearthError("failed-precondition", `container with id ${id} is not running`, { facts: { id } });
    }
    const { stats } = await withSandbox(context, record, (sandbox, timeoutMs) =>
      sandbox.containerStats({ containerId: id }, { timeoutMs }),
    );
    const data = statsData(decodeStats(stats));
    await writeOut(`${stringifyOciJson({ type: "stats", id, data })}\n`);
  },
});

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
