/** Registers every case as a test of the file that asks for it, with its VMs booted for it or from a pool. */
import { afterAll, beforeAll, describe, expect } from "bun:test";
import { chmodSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import type { PoolStatus } from "../../src/vmcache/control.ts";
import { type OpenHearth, openHearth } from "../harness/hearth.ts";
import { type Pool, startPool } from "../harness/pool.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";
import { testUnless } from "../harness/skip.ts";
import type { Case } from "./case.ts";
import { perform } from "./perform.ts";
import { hearthSubject, runcSubject, startPod, stopPod } from "./subjects.ts";
import { TOPICS } from "./topics.ts";

const TIMEOUT_MS = 120_000;
const needsRunc = Bun.which("runc") === null ? "runc is missing" : undefined;

/** On runc too: a case that it does not pass either is wrong, unless it says why; one that says so and passes is wrong too. */
export function registerCold(): void {
  let runcDir: Scratch;
  beforeAll(() => {
    runcDir = scratch();
    makePassable(runcDir.dir);
  });
  afterAll(() => runcDir[Symbol.dispose]());
  const opened = hearthForCases({});
  register(opened, needsRunc, async (given, id) => {
    const theirs = await perform(given, runcSubject(runcDir.dir), runcDir.path(id), id);
    if (given.runcFails === undefined) expect(["runc", theirs]).toEqual(["runc", undefined]);
    else expect(theirs).toBeDefined();
  });
}

/** The VM that most cases share and those of the others are the pool's, which is waited for. Returns how often it had one, and had none. */
export function registerFromPool(): () => Promise<Pick<PoolStatus, "hits" | "misses">> {
  let pool: Pool;
  const opened = hearthForCases({ vm_cache_number: 1, vm_cache_timeout_ms: TIMEOUT_MS / 2 }, async ({ hearth }) => {
    pool = startPool(hearth, undefined);
    await pool.idle(1);
    return pool;
  });
  register(opened, undefined, async () => {});
  return () => pool.status();
}

/** Opened before the tests of the file, with the pod whose VM most cases share, and closed after them with what `start` returns. */
function hearthForCases(
  factory: object,
  start: (opened: OpenHearth) => Promise<AsyncDisposable | undefined> = async () => undefined,
): () => OpenHearth {
  let opened: OpenHearth;
  let started: AsyncDisposable | undefined;
  beforeAll(async () => {
    opened = openHearth({ config: { factory } });
    makePassable(opened.hearth.dir);
    started = await start(opened);
    await startPod(opened.hearth);
  }, TIMEOUT_MS);
  afterAll(async () => {
    await stopPod(opened.hearth);
    await started?.[Symbol.asyncDispose]();
    await opened.close();
  }, TIMEOUT_MS);
  return () => opened;
}

/** `before` is done with each case first; `needs` says why there are none. */
function register(
  opened: () => OpenHearth,
  needs: string | undefined,
  before: (given: Case, id: string) => Promise<void>,
): void {
  let count = 0;
  for (const { topic, cases } of TOPICS) {
    describe(topic, () => {
      for (const given of cases) {
        const performed = async (): Promise<void> => {
          const id = `case-${++count}`;
          await before(given, id);
          const { hearth, describe: describeLogs } = opened();
          const wrong = await perform(given, hearthSubject(hearth), join(hearth.dir, id), id);
          if (wrong !== undefined) process.stderr.write(describeLogs());
          expect(["hearth", wrong]).toEqual(["hearth", undefined]);
        };
        testUnless(needs)(`${given.name} (${given.spec})`, performed, TIMEOUT_MS);
      }
    });
  }
}

/** A container in a user namespace of runc has to come to its root as nobody in particular. */
function makePassable(dir: string): void {
  for (let at = dir; at !== dirname(at); at = dirname(at)) {
    const { mode } = statSync(at);
    if ((mode & 0o005) !== 0o005) chmodSync(at, mode | 0o005);
  }
}
