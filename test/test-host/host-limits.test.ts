/** Limits of a whole VM on a host with cgroup version 2 alone; those of version 1 are in the conformance suite. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { hostMemoryBytes } from "../../src/sandbox/host-memory.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";
import { TestHost } from "../harness/test-host/test-host.ts";

const START_TIMEOUT_MS = 180_000;
const KILL = join(import.meta.dir, "../fixtures/kill-in-cgroup.ts");
const FIXTURE = join(import.meta.dir, "../fixtures/apply-host-limits.ts");

let files: Scratch;
let host: TestHost;
beforeAll(async () => {
  files = scratch();
  writeFileSync(files.path("disk"), new Uint8Array(1024 * 1024));
  host = await TestHost.start({ disk: files.path("disk") });
}, START_TIMEOUT_MS);
afterAll(async () => {
  await host[Symbol.asyncDispose]();
  files[Symbol.dispose]();
});

const apply = (resources: object, ...sizesMib: string[]): Promise<string> =>
  host
    .ok([process.execPath, FIXTURE, "/pods/one", JSON.stringify(resources), ...sizesMib])
    .then(({ stdout }) => stdout);
const limit = (file: string): Promise<string> => host.sh(`cat /sys/fs/cgroup/pods/one/${file}`);

test(
  "CPU, CPUs and block I/O, with the controllers handed down to where they are needed",
  async () => {
    const [major, minor] = (await host.sh("awk '$4 == \"vda\" {print $1, $2}' /proc/partitions"))
      .split(" ")
      .map(Number);
    const warnings = await apply({
      cpu: { shares: 512, quota: 50_000, period: 100_000, burst: 10_000, cpus: "0", mems: "0" },
      blockIO: {
        throttleReadBpsDevice: [{ major, minor, rate: 1_000_000 }],
        throttleWriteIOPSDevice: [{ major, minor, rate: 50 }],
      },
    });
    expect(warnings).toBe("[]");
    const files = ["cpu.weight", "cpu.max", "cpu.max.burst", "cpuset.cpus", "cpuset.mems", "io.max"];
    expect(await Promise.all(files.map(limit))).toEqual([
      "20",
      "50000 100000",
      "10000",
      "0",
      "0",
      `${major}:${minor} rbps=1000000 wbps=max riops=max wiops=50`,
    ]);
  },
  START_TIMEOUT_MS,
);

test(
  "an update changes what it names, and a limit that the kernel refuses is an error",
  async () => {
    await apply({ cpu: { quota: -1, period: 100_000 } });
    expect(await limit("cpu.max")).toBe("max 100000");
    await expect(apply({ cpu: { cpus: "77" } })).rejects.toThrow("apply linux.resources.cpu.cpus 77");
  },
  START_TIMEOUT_MS,
);

test(
  "the bound on the memory of a VM grows with it, and goes",
  async () => {
    await apply({}, "512");
    expect(await limit("memory.max")).toBe(`${hostMemoryBytes(512)}`);
    await apply({}, "512", "640");
    expect(await limit("memory.max")).toBe(`${hostMemoryBytes(640)}`);
    await apply({}, "640", "0");
    expect(await limit("memory.max")).toBe("max");
  },
  START_TIMEOUT_MS,
);

test(
  "an OOM kill in the guest is counted by the cgroup too: one process of no use dies, no other, and the limits stay",
  async () => {
    await apply({}, "512");
    const bystander = await host.sh("sleep 1000 >/dev/null 2>&1 & echo $! | tee /sys/fs/cgroup/pods/one/cgroup.procs");
    await host.ok([process.execPath, KILL, "/pods/one"]);
    expect(await limit("memory.events")).toContain("oom_kill 1\n");
    expect(await limit("memory.max")).toBe(`${hostMemoryBytes(512)}`);
    expect(await limit("cgroup.procs")).toBe(bystander);
    await host.sh(`kill ${bystander}`);
  },
  START_TIMEOUT_MS,
);
