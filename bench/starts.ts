/** Starts, cold and warm, commands on a container that runs, claims on an open connection, sizes on disk. */
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { CacheService } from "../src/gen/cache_pb.ts";
import { createGrpcClient, GrpcClient } from "../src/rpc/grpc.ts";
import { type Hearth, openHearth } from "../test/harness/hearth.ts";
import { startPool, vmRecords } from "../test/harness/pool.ts";
import { crunState, HeldQemu, run, runcRun, runtime } from "./commands.ts";
import { firstOutput, sample, summarize, wholeProcess } from "./measure.ts";
import type { Report } from "./report.ts";

const STARTS = 7;
const QUICK = 30;
/** VMs of the pool whose claims are timed: one is claimed while the other boots. */
const CLAIMED_POOL = 2;
const CLAIMS = 20;
const CLAIM_TIMEOUT_MS = 30_000;
const MIB = 1024 * 1024;

export async function measureStarts(report: Report): Promise<void> {
  using hold = new HeldQemu();
  const opened = openHearth({
    config: {
      hypervisor: { path: hold.program },
      factory: { vm_cache_lease_ms: 1000 },
      runtime: { log_level: "warn" },
    },
  });
  try {
    await measure(report, opened.hearth, hold);
  } catch (thrown) {
    process.stderr.write(opened.describe());
    throw thrown;
  } finally {
    hold.release();
    await opened.close();
  }
}

async function measure(report: Report, hearth: Hearth, hold: HeldQemu): Promise<void> {
  const bundle = await hearth.bundle({ args: ["echo", "hello"] });
  const runc = report.time("runc: run to first output", await sample(STARTS, () => firstOutput(runcRun(bundle))));
  const cold = await sample(STARTS, () => firstOutput(run(hearth, bundle, hearth.configPath)));
  const coldMs = report.time("cold: run to first output", cold, { runc: cold.median / runc });
  await measureRunning(report, hearth, coldMs);
  await measurePool(report, hearth, hold, bundle, coldMs, runc);
  await measureClaimLatency(report, hearth, coldMs);
  const executable = statSync(hearth.executable).size / MIB;
  report.record("executable", executable, "MiB");
  const guest = guestMib(hearth.dataDir);
  report.record("unpacked guest", guest, "MiB", { "the executable": guest / executable });
}

/** Commands on a container that runs, and its end. */
async function measureRunning(report: Report, hearth: Hearth, cold: number): Promise<void> {
  const bundle = await hearth.bundle({ args: ["sleep", "100000"] });
  const start = () => wholeProcess(runtime(hearth, ["run", "--detach", "--bundle", bundle, "bench"]));
  const end = () => wholeProcess(runtime(hearth, ["delete", "--force", "bench"]));
  await start();
  const exec = await sample(STARTS, () => wholeProcess(runtime(hearth, ["exec", "bench", "true"])));
  report.time("exec true, whole process", exec, { cold: exec.median / cold });
  // By turns, so that a machine that becomes slower meanwhile is that for both.
  const crun: number[] = [];
  const state = await sample(QUICK, async () => {
    crun.push(await crunState(hearth));
    return await wholeProcess(runtime(hearth, ["state", "bench"]));
  });
  report.time("state, whole process", state, { crun: state.median / summarize(crun).median });
  await end();
  const ends: number[] = [];
  for (let index = 0; index < STARTS; index++) {
    await start();
    ends.push(await end());
  }
  const ended = summarize(ends);
  report.time("delete --force of a running container", ended, { cold: ended.median / cold });
}

async function measurePool(
  report: Report,
  hearth: Hearth,
  hold: HeldQemu,
  bundle: string,
  cold: number,
  runc: number,
): Promise<void> {
  // The record says idle a moment before the server knows it: a claim waits rather than booting one.
  const config = hearth.configWith({ factory: { vm_cache_number: 1, vm_cache_timeout_ms: CLAIM_TIMEOUT_MS } });
  await using pool = startPool(hearth, 1);
  const full = async (): Promise<void> => {
    hold.release();
    await pool.idle(1);
  };
  const warm = await sample(STARTS, async () => {
    await full();
    hold.hold();
    return await firstOutput(run(hearth, bundle, config));
  });
  const ratios = { cold: warm.median / cold, runc: warm.median / runc };
  report.time("warm: run to first output, refill held back", warm, ratios);
  const competing = await sample(STARTS, async () => {
    await full();
    return await firstOutput(run(hearth, bundle, config));
  });
  report.time("warm: run to first output, refill competing", competing, { cold: competing.median / cold });
  await measureRefilled(report, hearth, full, cold);
}

/** From a claim until the next VM is idle, in a pool of one; nobody adopts, so each VM ends. */
async function measureRefilled(report: Report, hearth: Hearth, full: () => Promise<void>, cold: number): Promise<void> {
  await using client = new GrpcClient(hearth.endpoint);
  const cache = createGrpcClient(CacheService, client);
  const refills: number[] = [];
  for (let index = 0; index < STARTS; index++) {
    await full();
    const startedAt = performance.now();
    const { id } = await cache.getBaseVM({}, { timeoutMs: CLAIM_TIMEOUT_MS });
    const isNext = () => vmRecords(hearth.runDir).some(({ vmId, state }) => vmId !== id && state === "idle");
    while (!isNext()) await Bun.sleep(5);
    refills.push(performance.now() - startedAt);
  }
  const refill = summarize(refills);
  report.time("hand-out to refilled", refill, { cold: refill.median / cold });
}

/** On one connection, as its clients do it: Config, then GetBaseVM, of a pool that the server itself says is full. */
async function measureClaimLatency(report: Report, hearth: Hearth, cold: number): Promise<void> {
  await using _pool = startPool(hearth, CLAIMED_POOL);
  await using client = new GrpcClient(hearth.endpoint);
  const cache = createGrpcClient(CacheService, client);
  const idle = async (): Promise<number> => {
    const status = cache.status({}, { timeoutMs: CLAIM_TIMEOUT_MS });
    return (await status.catch(() => undefined))?.vmstatus.length ?? 0;
  };
  const claims: number[] = [];
  for (let index = 0; index < CLAIMS; index++) {
    while ((await idle()) < CLAIMED_POOL) await Bun.sleep(50);
    await cache.config({}, { timeoutMs: CLAIM_TIMEOUT_MS });
    const startedAt = performance.now();
    await cache.getBaseVM({}, { timeoutMs: CLAIM_TIMEOUT_MS });
    claims.push(performance.now() - startedAt);
  }
  const claim = summarize(claims);
  report.time("GetBaseVM after Config, p50", claim, { cold: claim.median / cold });
  report.record("GetBaseVM after Config, p99", claim.p99, "ms", { p50: claim.p99 / claim.median });
}

function guestMib(dataDir: string): number {
  const [digest] = readdirSync(join(dataDir, "guest")).filter((name) => name !== "lock");
  if (digest === undefined) return 0;
  const dir = join(dataDir, "guest", digest);
  return readdirSync(dir).reduce((sum, name) => sum + statSync(join(dir, name)).size, 0) / MIB;
}
