/** How the cost of a pool grows with its size: memory, idle CPU, time to fill, latency of a claim. */
import { summarize } from "./measure.ts";
import { cpuMsOf, type Kind, memoryOf, type PoolUnderTest, templateMib, withPool } from "./pool-under-test.ts";
import type { Report } from "./report.ts";

/** Longer than the two minutes between two checks of a VM, so that every VM is checked in it: they are part of the cost. */
const IDLE_MS = 125_000;
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
  await pool.settle();
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

async function reportIdleCpu(report: Report, pool: PoolUnderTest, name: string): Promise<void> {
  const before = cpuMsOf(pool);
  const startedAt = performance.now();
  await Bun.sleep(IDLE_MS);
  const elapsed = performance.now() - startedAt;
  let total = 0;
  for (const [process, ms] of cpuMsOf(pool)) {
    const percent = ((ms - (before.get(process) ?? 0)) / elapsed) * 100;
    total += percent;
    report.record(`${name}: idle CPU, ${process}`, percent, "% of a core");
  }
  report.record(`${name}: idle CPU, all of it`, total, "% of a core");
}
