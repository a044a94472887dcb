/** From a hand-out to the next VM that is ready, for each way of making VMs; what an idle booted one costs. */
import { sample, TRIMMED_MS } from "./measure.ts";
import { KINDS, memoryOf, type PoolUnderTest, withPool } from "./pool-under-test.ts";
import type { Report } from "./report.ts";

const REFILLS = 7;
/** More of them would share programs and pages of the guest's image; what a pool of many takes is in growth.ts. */
const IDLE = 1;

export async function measureRefill(report: Report): Promise<void> {
  let bootedMs: number | undefined;
  for (const kind of KINDS) {
    await withPool(kind, 1, async (pool) => {
      const refill = await sample(REFILLS, () => refillMs(pool));
      const ratios = bootedMs === undefined ? undefined : { booted: refill.median / bootedMs };
      const ms = report.time(`hand-out to refilled, ${kind}`, refill, ratios);
      bootedMs ??= ms;
    });
  }
  await withPool("booted", IDLE, (pool) => reportMemory(report, pool));
}

async function refillMs(pool: PoolUnderTest): Promise<number> {
  await pool.full();
  const startedAt = performance.now();
  await pool.cache.getBaseVM({}, { timeoutMs: 60_000 });
  await pool.full();
  return performance.now() - startedAt;
}

/** Proportional set sizes of what one idle VM consists of. */
async function reportMemory(report: Report, pool: PoolUnderTest): Promise<void> {
  await Bun.sleep(TRIMMED_MS);
  const memory = await memoryOf(pool);
  memory.delete("server");
  const all = [...memory.values()].reduce((sum, mib) => sum + mib, 0);
  for (const [name, mib] of memory) {
    report.record(`PSS of an idle VM, booted: ${name}`, mib / IDLE, "MiB", { "all of it": mib / all });
  }
  report.memory("PSS of an idle VM, booted: all of it", all / IDLE);
}
