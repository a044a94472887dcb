/** A pool server that is told to end has ended in bounded time, whatever its VMs do. Its clock is the test's. */
import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { POOL_END_KILL_MS, POOL_END_TIMEOUT_MS } from "../../src/limits.ts";
import { type Log, silentLog } from "../../src/log.ts";
import { identifyProcess, isAlive, processExit } from "../../src/sys/process-identity.ts";
import { eventually } from "../harness/eventually.ts";
import { PoolInProcess, PoolProcess, poolClient } from "../harness/pool-fixture.ts";
import { rejection } from "../harness/rejection.ts";
import { sandboxFixture, VM_CONFIG } from "../harness/sandbox-fixture.ts";
import { testUnless } from "../harness/skip.ts";

const never = new AbortController().signal;

/** Time passes when the test says so. */
class HandClock {
  readonly #waiting = new Map<number, () => void>();

  readonly after = (ms: number, signal?: AbortSignal): Promise<void> =>
    new Promise((resolve, reject) => {
      this.#waiting.set(ms, resolve);
      signal?.addEventListener("abort", () => {
        this.#waiting.delete(ms);
        reject(signal.reason);
      });
    });

  /** What is waited for, milliseconds from when it began. */
  get waiting(): number[] {
    return [...this.#waiting.keys()];
  }

  pass(ms: number): void {
    this.#waiting.get(ms)?.();
  }
}

function warnings(): { readonly list: string[]; readonly log: Log } {
  const list: string[] = [];
  const log: Log = { ...silentLog, warn: (event) => void list.push(event), with: () => log };
  return { list, log };
}

test("the whole end is bounded by less than 10 s", () => {
  expect(POOL_END_KILL_MS).toBeLessThan(POOL_END_TIMEOUT_MS);
  expect(POOL_END_TIMEOUT_MS).toBeLessThan(10_000);
});

test("VMs that do not end in their time are killed", async () => {
  using fixture = sandboxFixture();
  const clock = new HandClock();
  const { list, log } = warnings();
  await using pool = new PoolInProcess(fixture, { endsAfter: clock.after, log });
  await pool.seen("ready", 2);
  const vms = (await pool.status()).idle.map(({ sandboxPid }) => identifyProcess(sandboxPid));
  fixture.script({ ignoreTerm: true, rpc: { destroy: "hang" } });
  const stopped = pool.stop();
  await pool.seen("stopping");
  await eventually("its deadlines", () => (clock.waiting.length === 2 ? true : undefined));
  expect(clock.waiting).toEqual([POOL_END_KILL_MS, POOL_END_TIMEOUT_MS]);
  expect(vms.map(isAlive)).toEqual([true, true]);
  clock.pass(POOL_END_KILL_MS);
  expect(await stopped).toBe("signal");
  expect(fixture.leftovers()).toEqual([]);
  // None was waited for in steps of its own.
  expect(list).not.toContain("sandbox process does not end");
  expect(list).toContain("vms have not ended in time, killing them");
});

test("so are those that boot; claims that wait are refused at once", async () => {
  using fixture = sandboxFixture();
  fixture.script({ launch: { "wait-for-agent": "hang" }, ignoreTerm: true });
  const clock = new HandClock();
  await using pool = new PoolInProcess(fixture, { endsAfter: clock.after });
  await pool.seen("step", 5);
  const claim = rejection(poolClient(pool.options.endpoint).getBaseVm(VM_CONFIG, never));
  while ((await pool.status()).waiting < 1);
  const stopped = pool.stop();
  expect(await claim).toMatchObject({ code: "unavailable" });
  expect(fixture.leftovers()).not.toEqual([]);
  clock.pass(POOL_END_KILL_MS);
  expect(await stopped).toBe("signal");
  expect(fixture.leftovers()).toEqual([]);
});

test("VMs that end by themselves are not waited for longer than that", async () => {
  using fixture = sandboxFixture();
  const clock = new HandClock();
  await using pool = new PoolInProcess(fixture, { endsAfter: clock.after });
  await pool.seen("ready", 2);
  expect(await pool.stop()).toBe("signal");
  expect(clock.waiting).toEqual([]);
  expect(fixture.leftovers()).toEqual([]);
});

/** Version 1: a process that is frozen by it gets no signal, SIGKILL neither, as one that hangs in the kernel. */
const FREEZER = "/sys/fs/cgroup/freezer";
const noFreezer = existsSync(join(FREEZER, "cgroup.procs")) ? undefined : "no freezer of cgroup version 1";

class Frozen implements Disposable {
  readonly #dir = join(FREEZER, `hearth-test-${crypto.randomUUID().slice(0, 8)}`);

  static async freeze(pid: number): Promise<Frozen> {
    const frozen = new Frozen();
    mkdirSync(frozen.#dir);
    writeFileSync(join(frozen.#dir, "cgroup.procs"), `${pid}`);
    writeFileSync(join(frozen.#dir, "freezer.state"), "FROZEN");
    const state = (): string => readFileSync(join(frozen.#dir, "freezer.state"), "utf8").trim();
    await eventually("a frozen process", () => (state() === "FROZEN" ? true : undefined));
    return frozen;
  }

  thaw(): void {
    writeFileSync(join(this.#dir, "freezer.state"), "THAWED");
  }

  [Symbol.dispose](): void {
    this.thaw();
    rmdirSync(this.#dir);
  }
}

testUnless(noFreezer)("a VM that even the kernel does not end is left to the next server", async () => {
  using fixture = sandboxFixture();
  const clock = new HandClock();
  await using pool = new PoolInProcess(fixture, { number: 1, endsAfter: clock.after });
  await pool.seen("ready");
  const [vm] = (await pool.status()).idle;
  const owner = identifyProcess(vm?.sandboxPid ?? 0);
  using frozen = await Frozen.freeze(owner.pid);
  const stopped = pool.stop();
  await pool.seen("stopping");
  await eventually("its deadlines", () => (clock.waiting.length === 2 ? true : undefined));
  clock.pass(POOL_END_KILL_MS);
  await new Promise(setImmediate);
  clock.pass(POOL_END_TIMEOUT_MS);
  expect(await stopped).toBe("signal");
  expect(isAlive(owner)).toBe(true);
  frozen.thaw();
  await processExit(owner);
  // What was left takes a server that starts; it is also what this one would do next if its process went on.
  await using next = new PoolInProcess(fixture, { number: 1 });
  await next.seen("ready");
  await next.stop();
  await eventually("nothing left", () => (fixture.leftovers().length === 0 ? true : undefined));
});

test("told to end while a VM that it found does not answer, it does not wait for that", async () => {
  using fixture = sandboxFixture();
  await using first = new PoolProcess(fixture, { number: 1 });
  await first.seen("ready");
  first.child.kill(9);
  await first.child.exited;
  fixture.script({ rpc: { info: "hang" } });
  await using second = new PoolInProcess(fixture, { number: 1 });
  expect(await second.stop()).toBe("signal");
  fixture.script({});
  await using third = new PoolInProcess(fixture, { number: 1 });
  await third.seen("adopted");
  await third.stop();
  expect(fixture.leftovers()).toEqual([]);
});
