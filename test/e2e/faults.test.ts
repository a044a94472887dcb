/** Whatever fails, and whoever dies, nothing is left: each step of a real VM's life is made to fail in turn. */
import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { CacheService } from "../../src/gen/cache_pb.ts";
import { createGrpcClient, GrpcClient } from "../../src/rpc/grpc.ts";
import { SANDBOX_STEPS, type SandboxStep } from "../../src/sandbox/steps.ts";
import { processExit, signalProcess } from "../../src/sys/process-identity.ts";
import { isAlive } from "../../src/sys/process-stat.ts";
import { SIGKILL } from "../../src/sys/signals.ts";
import type { VmRecord } from "../../src/vm/vm-record.ts";
import { eventually } from "../harness/eventually.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";
import { processOf, startPool, vmRecords } from "../harness/pool.ts";
import { PATH } from "../harness/program.ts";

const TIMEOUT_MS = 120_000;
/** Of this run alone: without a cgroupsPath the cgroup on the host is named after it. */
const ID = `fault-${process.pid}`;
const EVENT_TIMEOUT_MS = 30_000;

/** Steps that a lone container without network and disks does not take; they have tests of their own, as those of pool and templates. */
const NOT_TAKEN: ReadonlySet<SandboxStep> = new Set([
  ...([
    "connect-network",
    "mount-volumes",
    "mirror-volume",
    "plug-disks",
    "exec-process",
    "rehearse",
    "pause",
    "resume",
  ] as const),
  ...(["restore", "close-agent", "save", "load-apparmor-profile"] as const),
]);

describe("a failing step of create", () => {
  for (const step of SANDBOX_STEPS.filter((name) => !NOT_TAKEN.has(name))) {
    test(
      step,
      async () => {
        await withHearth({}, async (hearth) => {
          const bundle = await hearth.bundle({ args: ["true"] });
          const { status, stderr } = await hearth.runtime(["run", "--bundle", bundle, ID], {
            env: { HEARTH_FAIL_AT: step },
          });
          expect(status).toBe(1);
          expect(stderr).toContain(`${step}: fault injected by HEARTH_FAIL_AT`);
          expectNothing(hearth);
        });
      },
      TIMEOUT_MS,
    );
  }

  test("of an unknown name is refused", async () => {
    await withHearth({}, async (hearth) => {
      const bundle = await hearth.bundle({ args: ["true"] });
      const env = { HEARTH_FAIL_AT: "bogus" };
      const { status, stderr } = await hearth.runtime(["run", "--bundle", bundle, ID], { env });
      expect([status, stderr]).toEqual([
        1,
        expect.stringContaining('use HEARTH_FAIL_AT: no step is called \\"bogus\\"'),
      ]);
      expectNothing(hearth);
    });
  });

  test(
    "exec-process: the container goes on",
    async () => {
      await withHearth({}, async (hearth) => {
        await startSleeping(hearth, { HEARTH_FAIL_AT: "exec-process" });
        const { status, stderr } = await hearth.runtime(["exec", ID, "true"]);
        expect([status, stderr]).toEqual([255, expect.stringContaining("exec-process: fault injected")]);
        expect(JSON.parse((await hearth.runtime(["state", ID])).stdout)).toMatchObject({ status: "running" });
        expect((await hearth.runtime(["delete", "--force", ID])).status).toBe(0);
        expectNothing(hearth);
      });
    },
    TIMEOUT_MS,
  );
});

describe("killed", () => {
  test(
    "the sandbox process: the container is stopped, and delete collects QEMU, mounts and directory",
    async () => {
      await withHearth({}, async (hearth) => {
        const record = await runDetached(hearth);
        signalProcess(record.sandbox, SIGKILL);
        await processExit(record.sandbox);
        await status(hearth, "stopped");
        expect((await hearth.runtime(["delete", ID])).status).toBe(0);
        expectNothing(hearth);
      });
    },
    TIMEOUT_MS,
  );

  for (const [title, name] of [
    ["QEMU", "qemu"],
    ["virtiofsd", "virtiofsd"],
  ] as const) {
    test(
      `${title}: the container is stopped, its sandbox process ends, delete works`,
      async () => {
        await withHearth({}, async (hearth) => {
          const record = await runDetached(hearth);
          expect(record.processes).toHaveLength(2);
          expect(signalProcess(processOf(record, name), SIGKILL)).toBe(true);
          await processExit(record.sandbox, AbortSignal.timeout(EVENT_TIMEOUT_MS));
          await status(hearth, "stopped");
          expect((await hearth.runtime(["delete", ID])).status).toBe(0);
          expectNothing(hearth);
        });
      },
      TIMEOUT_MS,
    );
  }

  test(
    "create, while its VM boots: the lease ends it",
    async () => {
      await withHearth({ config: { factory: { vm_cache_lease_ms: 500 } } }, async (hearth) => {
        const record = await killWhileBooting(hearth);
        await processExit(record.sandbox, AbortSignal.timeout(EVENT_TIMEOUT_MS));
        expect(vmRecords(hearth.runDir)).toEqual([]);
        expect((await hearth.runtime(["delete", "--force", ID])).status).toBe(0);
        expectNothing(hearth);
      });
    },
    TIMEOUT_MS,
  );
});

test.each(["SIGTERM", "SIGINT", "SIGHUP"] as const)(
  "%s to a sandbox process that boots, whose spawner has gone: it clears away itself what it made",
  async (signal) => {
    await withHearth({}, async (hearth) => {
      const record = await killWhileBooting(hearth);
      process.kill(record.sandbox.pid, signal);
      await processExit(record.sandbox, AbortSignal.timeout(EVENT_TIMEOUT_MS));
      expect(record.processes.filter((one) => isAlive(one))).toEqual([]);
      expect(readdirSync(join(hearth.runDir, "vm"))).toEqual([]);
      expect((await hearth.runtime(["delete", "--force", ID])).status).toBe(0);
      expectNothing(hearth);
    });
  },
  TIMEOUT_MS,
);

test(
  "a client that dies with a leased VM costs that VM and no more: the pool is full again",
  async () => {
    await withHearth({ config: { factory: { vm_cache_number: 1, vm_cache_lease_ms: 500 } } }, async (hearth) => {
      await using pool = startPool(hearth, 1);
      await pool.idle(1);
      const [before] = vmRecords(hearth.runDir);
      if (before === undefined) throw new Error("no VM record");
      using client = await openPoolClient(hearth.endpoint);
      expect((await client.claim()).id).toBe(before.vmId);
      await processExit(before.sandbox, AbortSignal.timeout(EVENT_TIMEOUT_MS));
      await pool.idle(1);
      expect(vmRecords(hearth.runDir).map(({ vmId }) => vmId)).not.toContain(before.vmId);
      expect(await pool.stop()).toBe(0);
      expectNothing(hearth);
    });
  },
  TIMEOUT_MS,
);

/** `run --detach` with nothing on its standard streams: the container keeps them, as it keeps runc's. */
async function startSleeping(hearth: Hearth, env: Record<string, string> = {}): Promise<void> {
  const bundle = await hearth.bundle({ args: ["sleep", "1000"] });
  const child = Bun.spawn([hearth.runtimePath, "run", "--detach", "--bundle", bundle, ID], {
    env: { PATH, ...hearth.env, ...env },
    argv0: "hearth-runtime",
    stdio: ["ignore", "ignore", "ignore"],
  });
  expect(await child.exited).toBe(0);
}

/** Kills a `run` whose VM is booting, and returns that VM's record. */
async function killWhileBooting(hearth: Hearth): Promise<VmRecord> {
  const bundle = await hearth.bundle({ args: ["true"] });
  const child = Bun.spawn([hearth.runtimePath, "run", "--bundle", bundle, ID], {
    env: { PATH, ...hearth.env },
    argv0: "hearth-runtime",
    stdio: ["ignore", "ignore", "ignore"],
  });
  const record = await eventually("a booting VM", () =>
    vmRecords(hearth.runDir).find(({ processes }) => processes.length === 2),
  );
  child.kill("SIGKILL");
  await child.exited;
  return record;
}

/** A container that sleeps, in a VM of its own, and the VM's record. */
async function runDetached(hearth: Hearth): Promise<VmRecord> {
  await startSleeping(hearth);
  const [record] = vmRecords(hearth.runDir);
  if (record === undefined) throw new Error("no VM record");
  return record;
}

/** Speaks to the pool as any gRPC client may, and never adopts. */
async function openPoolClient(endpoint: string) {
  const client = new GrpcClient(endpoint);
  const cache = createGrpcClient(CacheService, client);
  return {
    claim: () => cache.getBaseVM({}, { timeoutMs: EVENT_TIMEOUT_MS }),
    [Symbol.dispose]: () => void client[Symbol.asyncDispose](),
  };
}

async function status(hearth: Hearth, expected: string): Promise<void> {
  await eventually(`state ${expected}`, async () => {
    const { stdout } = await hearth.runtime(["state", ID]);
    return JSON.parse(stdout).status === expected ? true : undefined;
  });
}

/** Processes and mounts are looked for when the Hearth of a test is closed. */
function expectNothing(hearth: Hearth): void {
  for (const kind of ["vm", "containers"]) {
    const dir = join(hearth.runDir, kind);
    expect(existsSync(dir) ? readdirSync(dir) : []).toEqual([]);
  }
  for (const hierarchy of readdirSync("/sys/fs/cgroup")) {
    expect(existsSync(join("/sys/fs/cgroup", hierarchy, `hearth-${ID}.scope`))).toBe(false);
  }
}
