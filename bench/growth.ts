/** How the cost of a pool grows with its size: memory, idle CPU, time to fill, latency of a claim. */
import { DEFAULT_CONFIG } from "../src/config/defaults.ts";
import { summarize } from "./measure.ts";
import { cpuMsOf, type Kind, memoryOf, type PoolUnderTest, templateMib, withPool } from "./pool-under-test.ts";
import type { Report } from "./report.ts";

const IDLE_MS = 30_000;
/** After work a process's garbage collector wakes up once a second for half a minute. */
const SETTLE_MS = 35_000;
const CLAIMS = 10;

export async function measureGrowthOfClones(report: Report): Promise<void> {
  await measureSizes(report, "copy-on-write clone", [1, 10, 30, 100]);
}

export async function measureGrowthOfBooted(report: Report): Promise<void> {
  await measureSizes(report, "booted", [1, 10, 30]);
}

async function measureSizes(report: Report, kind: Kind, sizes: readonly number[]): Promise<void> {
  for (const size of sizes) {
    await withPool(kind, size, (pool) => measurePool(report, pool, `pool of ${size}, ${kind}`));
  }
}

async function measurePool(report: Report, pool: PoolUnderTest, name: string): Promise<void> {
  report.record(`${name}: time to fill`, pool.fillSeconds, "s");
  await reportIdleCpu(report, pool, name);
  const memory = await memoryOf(pool);
  const all = [...memory.values()].reduce((sum, mib) => sum + mib, 0);
  const template = templateMib(pool.hearth);
  report.record(`${name}: PSS of all processes`, all, "MiB");
  if (template > 0) report.record(`${name}: with the template, if no clone had it mapped`, all + template, "MiB");
  const claims: number[] = [];
  for (let index = 0; index < CLAIMS; index++) {
    await pool.full();
    const startedAt = performance.now();
    await pool.cache.getBaseVM({}, { timeoutMs: 60_000 });
    claims.push(performance.now() - startedAt);
  }
  report.time(`${name}: claim`, summarize(claims));
}

/**
 * Every VM is checked once first, so that all have run since they were made. Checks are rare and CPU time is counted in
 * hundredths of a second, so what lies between them and what one costs, with what follows it, are measured apart and
 * put together.
 */
async function reportIdleCpu(report: Report, pool: PoolUnderTest, name: string): Promise<void> {
  const checkAndSettle = async (): Promise<number> => {
    const checks = await pool.checkAll();
    await Bun.sleep(SETTLE_MS);
    return checks;
  };
  await checkAndSettle();
  const idle = await cpuPercent(pool, () => Bun.sleep(IDLE_MS));
  report.record(`${name}: idle CPU between checks`, idle.percent, "% of a core");
  const checked = await cpuPercent(pool, checkAndSettle);
  const checkMs = (((checked.percent - idle.percent) / 100) * checked.elapsedMs) / checked.result;
  report.record(`${name}: CPU time of one check`, checkMs, "ms");
  const intervalMs = DEFAULT_CONFIG.factory.vm_cache_check_interval_s * 1000;
  const total = idle.percent + ((pool.number * checkMs) / intervalMs) * 100;
  report.record(`${name}: idle CPU, checks included`, total, "% of a core");
}

async function cpuPercent<T>(
  pool: PoolUnderTest,
  meanwhile: () => Promise<T>,
): Promise<{ readonly percent: number; readonly elapsedMs: number; readonly result: T }> {
  const before = cpuMsOf(pool);
  const startedAt = performance.now();
  const result = await meanwhile();
  const elapsedMs = performance.now() - startedAt;
  return { percent: ((cpuMsOf(pool) - before) / elapsedMs) * 100, elapsedMs, result };
}
