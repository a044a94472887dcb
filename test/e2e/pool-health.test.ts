/** Idle VMs that die or stop answering, of every cause a host has: the pool notices, counts and replaces them by itself. */
import { describe, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { isErrnoException } from "../../src/errors.ts";
import { mount, unmount } from "../../src/sys/mount.ts";
import { childPids, isAlive, processExit, processStat, signalProcess } from "../../src/sys/process-identity.ts";
import { SIGKILL } from "../../src/sys/signals.ts";
import type { VmRecord } from "../../src/vm/vm-record.ts";
import type { PoolStatus } from "../../src/vmcache/control.ts";
import { eventually } from "../harness/eventually.ts";
import { type ConfigOverrides, type Hearth, withHearth } from "../harness/hearth.ts";
import { type Pool, processOf, startPool, vmRecords } from "../harness/pool.ts";
import { PATH } from "../harness/program.ts";
import { testUnless } from "../harness/skip.ts";

const TIMEOUT_MS = 240_000;

const config = (factory: ConfigOverrides["factory"] = {}): ConfigOverrides => ({
  hypervisor: { default_memory: 256 },
  factory: { vm_cache_check_interval_s: 1, ...factory },
});
const hasIdle = (count: number) => (status: PoolStatus) => status.idle.length === count;

async function withPool(
  number: number,
  overrides: ConfigOverrides,
  body: (pool: Pool, hearth: Hearth) => Promise<void>,
): Promise<void> {
  await withHearth({ config: overrides }, async (hearth) => {
    await using pool = startPool(hearth, number);
    await pool.until("a full pool", hasIdle(number));
    await body(pool, hearth);
    expect(await pool.stop()).toBe(0);
  });
}

function onlyRecord(hearth: Hearth): VmRecord {
  const [record, ...more] = vmRecords(hearth.runDir);
  if (record === undefined || more.length > 0) throw new Error(`${more.length} VMs too many, or none`);
  return record;
}

/** Until the VM is gone, counted as lost, and another one is idle. */
async function expectReplaced(pool: Pool, record: VmRecord): Promise<void> {
  const status = await pool.until("another VM", ({ losses, idle }) => losses === 1 && idle.length === 1);
  expect(status.idle.map(({ id }) => id)).not.toContain(record.vmId);
  expect(status).toMatchObject({ boots: 2, losses: 1 });
  for (const process of [record.sandbox, ...record.processes]) expect(isAlive(process)).toBe(false);
}

describe("an idle VM", () => {
  for (const [title, name] of [
    ["QEMU", "qemu"],
    ["virtiofsd", "virtiofsd"],
  ] as const) {
    test(
      `whose ${title} is killed is noticed at once, counted and replaced`,
      async () => {
        // Nobody looks for an hour.
        await withPool(1, config({ vm_cache_check_interval_s: 3600 }), async (pool, hearth) => {
          const record = onlyRecord(hearth);
          expect(signalProcess(processOf(record, name), SIGKILL)).toBe(true);
          await expectReplaced(pool, record);
        });
      },
      TIMEOUT_MS,
    );
  }

  for (const [title, victimOf] of [
    ["QEMU", (vm: VmRecord | undefined) => processOf(vm, "qemu").pid],
    ["virtiofsd", (vm: VmRecord | undefined) => workerOf(processOf(vm, "virtiofsd").pid)],
  ] as const) {
    test(
      `whose ${title} is stopped by SIGSTOP is never handed out, and found by its regular check`,
      async () => {
        await withPool(2, config({ vm_cache_check_interval_s: 3600 }), async (pool, hearth) => {
          const [oldest, other] = vmRecords(hearth.runDir).toSorted((a, b) => a.readyAtMs - b.readyAtMs);
          await stop(victimOf(oldest));
          expect((await pool.claim()).id).toBe(other?.vmId ?? "");
          // The stopped one counts as idle as long as it has time to answer.
          const full = await pool.until("two others", ({ losses, idle }) => losses === 1 && idle.length === 2);
          expect(full).toMatchObject({ hits: 1, losses: 1 });

          const [checked] = vmRecords(hearth.runDir).filter(({ vmId }) => vmId === full.idle[0]?.id);
          await stop(victimOf(checked));
          writeFileSync(hearth.configPath, readFileSync(hearth.configPath, "utf8").replace("_s = 3600", "_s = 1"));
          const isReplaced = ({ losses, idle }: PoolStatus): boolean => losses === 2 && idle.length === 2;
          await pool.until("a replacement", isReplaced);
          expect(checked !== undefined && isAlive(checked.sandbox)).toBe(false);
        });
      },
      TIMEOUT_MS,
    );
  }
});

/** The child that does virtiofsd's work in its sandbox. */
function workerOf(pid: number): number {
  const [worker] = childPids(pid);
  if (worker === undefined) throw new Error(`virtiofsd ${pid} has no child`);
  return worker;
}

async function stop(pid: number): Promise<void> {
  process.kill(pid, "SIGSTOP");
  await eventually(`process ${pid} to stop`, () => (processStat(pid)?.state === "T" ? true : undefined));
}

const MEMORY_CGROUPS = "/sys/fs/cgroup/memory";

testUnless(existsSync(join(MEMORY_CGROUPS, "memory.oom_control")) ? undefined : "no memory cgroups of version 1")(
  "a QEMU that the kernel kills for want of memory is replaced",
  async () => {
    await withPool(1, config({ vm_cache_check_interval_s: 3600 }), async (pool, hearth) => {
      const record = onlyRecord(hearth);
      const qemu = processOf(record, "qemu");
      using cgroup = memoryCgroup(64 * 1024 * 1024);
      writeFileSync(join(cgroup.dir, "cgroup.procs"), `${qemu.pid}`);
      // It wants more than there is, and QEMU is all that may be killed for it.
      const script = `echo -1000 > /proc/self/oom_score_adj; echo $$ > ${cgroup.dir}/cgroup.procs; exec dd if=/dev/zero of=/dev/null bs=256M count=1`;
      const hog = Bun.spawn(["sh", "-c", script], { env: { PATH }, stdio: ["ignore", "ignore", "ignore"] });
      try {
        await processExit(qemu, AbortSignal.timeout(30_000));
      } finally {
        hog.kill("SIGKILL");
        await hog.exited;
      }
      expect(readFileSync(join(cgroup.dir, "memory.oom_control"), "utf8")).toMatch(/^oom_kill [1-9]/m);
      await expectReplaced(pool, record);
    });
  },
  TIMEOUT_MS,
);

/** Removed when it is empty again. */
function memoryCgroup(limitBytes: number): Disposable & { readonly dir: string } {
  const dir = join(MEMORY_CGROUPS, `hearth-oom-${process.pid}`);
  mkdirSync(dir);
  writeFileSync(join(dir, "memory.limit_in_bytes"), String(limitBytes));
  return { dir, [Symbol.dispose]: () => rmdirSync(dir) };
}

test(
  "a run directory without space fails boots visibly, and the pool is full again when there is some",
  async () => {
    await withHearth({ config: config({ vm_cache_lease_ms: 300, vm_cache_backoff_ms: 200 }) }, async (hearth) => {
      mkdirSync(hearth.runDir, { mode: 0o700 });
      mount({ source: "tmpfs", target: hearth.runDir, type: "tmpfs", data: "size=4m,mode=0700" });
      try {
        await using pool = startPool(hearth, 1);
        await pool.until("a full pool", hasIdle(1));
        const filler = join(hearth.runDir, "filler");
        fill(filler);
        await pool.claim();
        const isBackingOff = ({ slots: [slot] }: PoolStatus): boolean =>
          slot?.state === "backing-off" && slot.lastError.includes("ENOSPC");
        const failing = await pool.until("a slot that backs off", isBackingOff);
        expect(failing.bootFailures).toBeGreaterThanOrEqual(1);
        unlinkSync(filler);
        expect(await pool.until("a full pool again", hasIdle(1))).toMatchObject({ hits: 1, losses: 0 });
        expect(await pool.stop()).toBe(0);
      } finally {
        unmount(hearth.runDir);
      }
    });
  },
  TIMEOUT_MS,
);

/** Writes until there is no space left. */
function fill(path: string): void {
  const chunk = new Uint8Array(4096);
  const fd = openSync(path, "w");
  try {
    for (;;) writeSync(fd, chunk);
  } catch (thrown) {
    if (!isErrnoException(thrown) || thrown.code !== "ENOSPC") throw thrown;
  } finally {
    closeSync(fd);
  }
}
