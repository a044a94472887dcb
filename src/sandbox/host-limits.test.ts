import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { scratch } from "../../test/harness/scratch.ts";
import type { Resources } from "../oci/spec.ts";
import { applyHostLimits, limitsV1, limitsV2 } from "./host-limits.ts";

const RESOURCES: Resources = {
  cpu: { shares: 512, quota: 50_000, period: 100_000, burst: 1000, idle: 1, cpus: "0-1", mems: "0" },
  blockIO: {
    weight: 100,
    weightDevice: [{ major: 8, minor: 0, weight: 200 }],
    throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 1000 }],
    throttleWriteIOPSDevice: [{ major: 8, minor: 16, rate: 5 }],
  },
  memory: { limit: 1 << 20 },
  pids: { limit: 5 },
};
const lines = (writes: ReturnType<typeof limitsV1>): string[] => writes.map(({ file, value }) => `${file} ${value}`);

describe("files and values", () => {
  test("of cgroup v1", () => {
    expect(lines(limitsV1(RESOURCES))).toEqual([
      "cpu.shares 512",
      "cpu.cfs_period_us 100000",
      "cpu.cfs_quota_us 50000",
      "cpu.cfs_burst_us 1000",
      "cpu.idle 1",
      "cpuset.cpus 0-1",
      "cpuset.mems 0",
      "blkio.weight 100",
      "blkio.weight_device 8:0 200",
      "blkio.throttle.read_bps_device 8:0 1000",
      "blkio.throttle.write_iops_device 8:16 5",
    ]);
  });

  test("of cgroup v2", () => {
    expect(lines(limitsV2(RESOURCES))).toEqual([
      "cpu.weight 20",
      "cpu.max 50000 100000",
      "cpu.max.burst 1000",
      "cpu.idle 1",
      "cpuset.cpus 0-1",
      "cpuset.mems 0",
      "io.bfq.weight 100",
      "io.bfq.weight 8:0 200",
      "io.max 8:0 rbps=1000",
      "io.max 8:16 wiops=5",
    ]);
  });

  test.each<[Resources["cpu"], string[]]>([
    [{ quota: -1, period: 50_000 }, ["cpu.max max 50000"]],
    [{ quota: 20_000 }, ["cpu.max 20000 100000"]],
    [{ shares: 2 }, ["cpu.weight 1"]],
    [{ shares: 262_144 }, ["cpu.weight 10000"]],
    [{ shares: 0, cpus: "" }, []],
  ])("%p in v2", (cpu, expected) => {
    expect(lines(limitsV2({ cpu }))).toEqual(expected);
  });
});

describe("applied", () => {
  test("in the hierarchy that has the file; one that engines set everywhere may be missing, another may not", () => {
    using dir = scratch();
    const [cpu, blkio] = [dir.path("cpu"), dir.path("blkio")];
    for (const path of [cpu, blkio]) mkdirSync(path);
    writeFileSync(`${cpu}/cpu.shares`, "1024");
    const warnings = applyHostLimits([blkio, cpu], { cpu: { shares: 512 }, blockIO: { weight: 100 } });
    expect(readFileSync(`${cpu}/cpu.shares`, "utf8")).toBe("512");
    expect(warnings).toEqual([expect.stringContaining("linux.resources.blockIO.weight is not applied")]);
    expect(() => applyHostLimits([blkio, cpu], { cpu: { quota: 5 } })).toThrow("apply linux.resources.cpu.quota");
  });

  test("0 takes back a burst and an idle weight, of which a kernel that has no such file has none", () => {
    using dir = scratch();
    const idle = dir.path("cpu.idle");
    writeFileSync(idle, "1");
    const write = (cpu: Resources["cpu"]): string[] => applyHostLimits([dir.dir], { cpu });
    expect(write({ idle: 0, burst: 0 })).toEqual([]);
    expect(readFileSync(idle, "utf8")).toBe("0");
    expect(() => write({ burst: 1 })).toThrow("apply linux.resources.cpu.burst");
  });

  test("controllers are handed down in v2", () => {
    using dir = scratch();
    const leaf = dir.path("slice/c1");
    mkdirSync(leaf, { recursive: true });
    for (const path of [dir.dir, dir.path("slice")]) writeFileSync(`${path}/cgroup.subtree_control`, "pids");
    writeFileSync(`${leaf}/cgroup.controllers`, "cpu");
    writeFileSync(`${leaf}/cpu.weight`, "100");
    expect(applyHostLimits([leaf], { cpu: { shares: 512 } })).toEqual([]);
    expect(readFileSync(`${leaf}/cpu.weight`, "utf8")).toBe("20");
    // An ordinary file keeps the last write; the kernel's keeps all of them.
    expect(readFileSync(dir.path("slice/cgroup.subtree_control"), "utf8")).toBe("+memory");
  });
});
