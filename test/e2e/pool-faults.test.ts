/**
 * What other pools of VMs got wrong in the hand-over, with one real container in a VM from the pool: see docs/FAULTS.md.
 * A VM that waited must be as good as one booted for the container.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { vmPaths } from "../../src/paths.ts";
import { parseMountinfo } from "../../src/sys/mountinfo.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import type { VmRecord } from "../../src/vm/vm-record.ts";
import { type OpenHearth, openHearth } from "../harness/hearth.ts";
import { livingProcesses, processesUsing } from "../harness/leftovers.ts";
import { type Pool, startPool, vmRecords } from "../harness/pool.ts";
import { PATH } from "../harness/program.ts";

const TIMEOUT_MS = 240_000;
const ID = `faults-${process.pid}`;
const NETNS = `hearth-${ID}`;
const CGROUP = `/hearth-${ID}`;
const MEMORY_BYTES = 512 * 1024 * 1024;

let opened: OpenHearth;
let pool: Pool;
let vm: VmRecord;

beforeAll(async () => {
  await runOrThrow(["ip", "netns", "add", NETNS]);
  for (const args of [
    ["link", "add", "eth0", "type", "veth", "peer", "name", "peer0"],
    ["addr", "add", "10.97.0.2/24", "dev", "eth0"],
    ["link", "set", "eth0", "mtu", "1400", "up"],
    ["link", "set", "peer0", "up"],
  ]) {
    await runOrThrow(["ip", "-n", NETNS, ...args]);
  }
  opened = openHearth({
    config: { hypervisor: { default_memory: 256 }, factory: { vm_cache_number: 1, vm_cache_timeout_ms: 60_000 } },
  });
  const { hearth } = opened;
  pool = startPool(hearth, 1);
  const [idle] = (await pool.until("an idle VM", (status) => status.idle.length === 1)).idle;
  const bundle = await hearth.bundle({
    args: ["sleep", "1000"],
    config: {
      linux: {
        cgroupsPath: CGROUP,
        namespaces: [
          ...["pid", "ipc", "uts", "mount"].map((type) => ({ type })),
          { type: "network", path: `/run/netns/${NETNS}` },
        ],
        resources: { memory: { limit: MEMORY_BYTES } },
      },
    },
  });
  const create = Bun.spawn([hearth.runtimePath, "run", "--detach", "--bundle", bundle, ID], {
    env: { PATH, ...hearth.env },
    argv0: "hearth-runtime",
    stdio: ["ignore", "ignore", "inherit"],
  });
  expect(await create.exited).toBe(0);
  const record = vmRecords(hearth.runDir).find(({ vmId }) => vmId === idle?.id);
  if (record?.state !== "adopted") throw new Error("the container is not in the VM from the pool");
  vm = record;
}, TIMEOUT_MS);

afterAll(async () => {
  await opened.hearth.runtime(["delete", "--force", ID]);
  await pool.stop();
  try {
    await opened.close();
  } finally {
    await runOrThrow(["ip", "netns", "del", NETNS]);
  }
}, TIMEOUT_MS);

async function inContainer(...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await opened.hearth.runtime(["exec", ID, ...args]);
  expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
  return stdout;
}

describe("a VM from the pool", () => {
  test("takes an interface: where its devices go was not lost in the hand-over", async () => {
    expect(await inContainer("cat", "/sys/class/net/eth0/mtu")).toBe("1400\n");
    expect(await inContainer("ip", "-4", "-o", "addr", "show", "eth0")).toContain("10.97.0.2/24");
  });

  test("has its tap, and its container's shim, in the network namespace of the container", async () => {
    expect(await runOrThrow(["ip", "-n", NETNS, "-o", "link"])).toContain("hearth0");
    const { pid } = JSON.parse((await opened.hearth.runtime(["state", ID])).stdout);
    const inode = (await runOrThrow(["stat", "-L", "-c", "%i", `/run/netns/${NETNS}`])).trim();
    expect(readlinkSync(`/proc/${pid}/ns/net`)).toBe(`net:[${inode}]`);
  });

  test("is in the container's cgroup: QEMU, virtiofsd and sandbox process", () => {
    for (const { pid } of [vm.sandbox, ...vm.processes]) {
      const lines = readFileSync(`/proc/${pid}/cgroup`, "utf8").trim().split("\n");
      expect(lines.filter((line) => line.endsWith(CGROUP)).length).toBeGreaterThan(0);
    }
  });

  test("has the memory that the container asked for, which was plugged into it, and keeps it at an update", async () => {
    const totalMib = async (): Promise<number> =>
      Number(/^MemTotal:\s+(\d+) kB/m.exec(await inContainer("cat", "/proc/meminfo"))?.[1]) / 1024;
    const before = await totalMib();
    expect(before).toBeGreaterThan(MEMORY_BYTES / 1024 / 1024);
    const update = await opened.hearth.runtime(["update", "--memory", String(MEMORY_BYTES + (64 << 20)), ID]);
    expect({ status: update.status, stderr: update.stderr }).toEqual({ status: 0, stderr: "" });
    expect(await totalMib()).toBeGreaterThanOrEqual(before);
  });

  test("is served its shared directory read-only but for what was exposed to it, as a VM booted for the container is", () => {
    const { served } = vmPaths(opened.hearth.runDir, vm.vmId);
    const mounts = parseMountinfo(readFileSync(`/proc/${vm.sandbox.pid}/mountinfo`, "utf8"));
    expect(mounts.find(({ mountPoint }) => mountPoint === served)?.options).toContain("ro");
    const daemon = vm.processes.find(({ pid }) => readFileSync(`/proc/${pid}/comm`, "utf8") === "virtiofsd\n");
    expect(readFileSync(`/proc/${daemon?.pid}/cmdline`, "utf8")).toContain(served);
  });
});

test(
  "a create that fails in a VM from the pool leaves no process, and the pool is full again",
  async () => {
    const { hearth } = opened;
    const [idle] = (await pool.until("an idle VM", (status) => status.idle.length === 1)).idle;
    const bundle = await hearth.bundle({ args: ["/no/such/program"] });
    const { status, stderr } = await hearth.runtime(["create", "--bundle", bundle, `${ID}-fails`]);
    expect([status, stderr]).toEqual([1, expect.stringContaining("/no/such/program")]);
    expect(processesUsing(join(hearth.runDir, "vm", idle?.id ?? ""))).toEqual([]);
    const after = await pool.until("another idle VM", (now) => now.idle.length === 1 && now.idle[0]?.id !== idle?.id);
    expect(readdirSync(join(hearth.runDir, "vm")).sort()).toEqual([vm.vmId, after.idle[0]?.id ?? ""].sort());
  },
  TIMEOUT_MS,
);

test(
  "no zombie is left of what the pool has ended, nor a helper of a VM that its container is done with",
  async () => {
    const children = livingProcesses().filter(({ parentPid }) => parentPid === pool.pid);
    const all = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
    const zombies = all.filter((pid) => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
        return stat.slice(stat.lastIndexOf(")")).startsWith(`) Z ${pool.pid} `);
      } catch {
        return false;
      }
    });
    expect(zombies).toEqual([]);
    const idle = (await pool.status()).idle.map(({ sandboxPid }) => sandboxPid);
    expect(children.map(({ pid }) => pid).sort()).toEqual([...idle, vm.sandbox.pid].sort());
  },
  TIMEOUT_MS,
);
