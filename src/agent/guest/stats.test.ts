import { expect, test } from "bun:test";
import { blkioStats, cgroupStats, parseNetworkStats } from "./stats.ts";

const UNLIMITED = 2n ** 64n - 1n;

test("a cgroup with every controller", () => {
  const files: Readonly<Record<string, string>> = {
    "cpu.stat":
      "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\nnr_throttled 1\nthrottled_usec 9\nnr_bursts 0\n",
    "memory.stat": "anon 100\nfile 50\nkernel 20\n",
    "memory.current": "170\n",
    "memory.peak": "200\n",
    "memory.max": "1000\n",
    "memory.swap.current": "5\n",
    "memory.swap.max": "30\n",
    "memory.events": "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\n",
    "pids.current": "3\n",
    "pids.max": "10\n",
    "hugetlb.2MB.current": "4096\n",
    "hugetlb.2MB.events": "max 2\n",
  };
  expect(cgroupStats((name) => files[name], ["2MB"])).toEqual({
    cpuStats: {
      cpuUsage: { totalUsage: 5000n, usageInKernelmode: 2000n, usageInUsermode: 3000n },
      throttlingData: { periods: 7n, throttledPeriods: 1n, throttledTime: 9000n },
    },
    memoryStats: {
      cache: 50n,
      usage: { usage: 170n, maxUsage: 200n, failcnt: 4n, limit: 1000n },
      swapUsage: { usage: 175n, failcnt: 0n, limit: 1030n },
      kernelUsage: { usage: 20n },
      useHierarchy: true,
      stats: { anon: 100n, file: 50n, kernel: 20n },
    },
    pidsStats: { current: 3n, limit: 10n },
    blkioStats: { ioServiceBytesRecursive: [], ioServicedRecursive: [] },
    hugetlbStats: { "2MB": { usage: 4096n, failcnt: 2n } },
  });
});

test("no limits and no files", () => {
  const files: Readonly<Record<string, string>> = {
    "memory.max": "max\n",
    "pids.max": "max\n",
    "memory.swap.max": "0",
  };
  const { memoryStats, pidsStats } = cgroupStats((name) => files[name]);
  expect(memoryStats).toMatchObject({ usage: { limit: UNLIMITED, usage: 0n }, swapUsage: { limit: UNLIMITED } });
  expect(pidsStats).toEqual({ current: 0n, limit: 0n });
});

test("block devices", () => {
  const text = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n253:16 \nnonsense\n";
  const device = { major: 8n, minor: 0n };
  expect(blkioStats(text)).toEqual({
    ioServiceBytesRecursive: [
      { ...device, op: "Read", value: 1n },
      { ...device, op: "Write", value: 2n },
      { ...device, op: "Discard", value: 5n },
    ],
    ioServicedRecursive: [
      { ...device, op: "Read", value: 3n },
      { ...device, op: "Write", value: 4n },
      { ...device, op: "Discard", value: 6n },
    ],
  });
});

test("network interfaces", () => {
  const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:12345678901234567890  2    3    4    0     0          0         0      5       6    7    8    0     0       0          0
`;
  expect(parseNetworkStats(text)).toEqual([
    {
      name: "eth0",
      rxBytes: 12345678901234567890n,
      rxPackets: 2n,
      rxErrors: 3n,
      rxDropped: 4n,
      txBytes: 5n,
      txPackets: 6n,
      txErrors: 7n,
      txDropped: 8n,
    },
  ]);
});
