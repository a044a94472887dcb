/** Claims that come faster than VMs: how many a second are served, and how long each waits; and claims against a full pool. */
import { CacheService } from "../src/gen/cache_pb.ts";
import { createGrpcClient, GrpcClient, type GrpcClientOf } from "../src/rpc/grpc.ts";
import { summarize } from "./measure.ts";
import { type Kind, type PoolUnderTest, withPool } from "./pool-under-test.ts";
import type { Report } from "./report.ts";

const SUSTAINED_KINDS: readonly Kind[] = ["booted", "copy-on-write clone"];
const CLIENTS = [1, 4, 16];
const SUSTAINED_MS = 30_000;
const SUSTAINED_POOL = 4;
const CLAIM_TIMEOUT_MS = 120_000;
/** Claims at once against a full pool, and how often. */
const AT_ONCE = 4;
const ROUNDS = 100;
const FULL_POOL = 8;

type Cache = GrpcClientOf<typeof CacheService>;

export async function measureClaims(report: Report): Promise<void> {
  await withPool("copy-on-write clone", FULL_POOL, (pool) => measureFull(report, pool));
  for (const kind of SUSTAINED_KINDS) {
    await withPool(kind, SUSTAINED_POOL, async (pool) => {
      for (const clients of CLIENTS) await measureSustained(report, pool, kind, clients);
    });
  }
}

/** As many connections, each past its first call. */
async function connect(pool: PoolUnderTest, count: number, stack: AsyncDisposableStack): Promise<Cache[]> {
  const caches = Array.from({ length: count }, () =>
    createGrpcClient(CacheService, stack.use(new GrpcClient(pool.hearth.endpoint))),
  );
  for (const cache of caches) await cache.config({}, { timeoutMs: 10_000 });
  return caches;
}

async function claimMs(cache: Cache): Promise<number> {
  const startedAt = performance.now();
  await cache.getBaseVM({}, { timeoutMs: CLAIM_TIMEOUT_MS });
  return performance.now() - startedAt;
}

async function measureFull(report: Report, pool: PoolUnderTest): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const caches = await connect(pool, AT_ONCE, stack);
  const claims: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    await pool.full();
    claims.push(...(await Promise.all(caches.map(claimMs))));
  }
  const claim = summarize(claims);
  report.time(`claims of ${AT_ONCE} clients at once, full pool, p50`, claim);
  report.record(`claims of ${AT_ONCE} clients at once, full pool, p99`, claim.p99, "ms", {
    p50: claim.p99 / claim.median,
  });
}

async function measureSustained(report: Report, pool: PoolUnderTest, kind: Kind, clients: number): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const caches = await connect(pool, clients, stack);
  await pool.full();
  const claims: number[] = [];
  const end = performance.now() + SUSTAINED_MS;
  const claimOn = async (cache: Cache): Promise<void> => {
    while (performance.now() < end) {
      const ms = await claimMs(cache);
      // One that was served later counts for nobody.
      if (performance.now() < end) claims.push(ms);
    }
  };
  await Promise.all(caches.map(claimOn));
  const claim = summarize(claims);
  const name = `sustained claims of ${clients} clients, ${kind}`;
  report.record(name, claims.length / (SUSTAINED_MS / 1000), "1/s", {}, claim);
  report.record(`${name}: p50`, claim.median, "ms");
  report.record(`${name}: p99`, claim.p99, "ms");
}
