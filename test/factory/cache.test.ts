import { describe, expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { HearthError } from "../../src/errors.ts";
import type { CacheEvent } from "../../src/factory/cache-event.ts";
import { createDirectFactory } from "../../src/factory/direct.ts";
import { connectIdleVm } from "../../src/factory/idle-vm.ts";
import { type PoolSettings, VmPool, type VmPoolOptions } from "../../src/factory/vm-pool.ts";
import { SandboxService } from "../../src/gen/sandbox_pb.ts";
import { SUSPENSION_MS_MIN, VM_CHECKS_AT_ONCE_MAX } from "../../src/limits.ts";
import { TtrpcClient } from "../../src/rpc/ttrpc/client.ts";
import { createTtrpcClient } from "../../src/rpc/ttrpc/descriptors.ts";
import { clockNanoseconds } from "../../src/sys/clock.ts";
import { isAlive, processExit } from "../../src/sys/process-identity.ts";
import { connectUnix } from "../../src/sys/unix-socket.ts";
import { testSettings } from "../harness/pool-fixture.ts";
import { rejection } from "../harness/rejection.ts";
import { processesMentioning, type SandboxFixture, sandboxFixture, VM_CONFIG } from "../harness/sandbox-fixture.ts";

const never = new AbortController().signal;

interface TestOptions extends Partial<Omit<VmPoolOptions, "settings">>, Partial<PoolSettings> {
  /** VMs of the one shape. */
  readonly slots?: number;
}

/** A pool of one shape, unless told otherwise, whose events can be waited for. */
class TestCache {
  readonly cache: VmPool;
  readonly events: CacheEvent[] = [];
  readonly #waiters = new Set<() => void>();

  constructor(fixture: SandboxFixture, options: TestOptions = {}) {
    const {
      slots = 2,
      base,
      onEvent,
      stableMs = 0,
      provenMs,
      leaseTimeoutMs,
      lookIntervalMs,
      suspendedMs,
      ...settings
    } = options;
    this.cache = new VmPool({
      runDir: fixture.runDir,
      settings: testSettings({ number: slots, settings }),
      stableMs,
      provenMs,
      leaseTimeoutMs,
      lookIntervalMs,
      suspendedMs,
      base: base ?? ((onStep) => baseOf(fixture, fixture.argv, onStep)),
      onEvent: (event) => {
        onEvent?.(event);
        this.events.push(event);
        for (const waiter of this.#waiters) waiter();
      },
    });
    this.cache.start();
  }

  count(kind: CacheEvent["kind"]): number {
    return this.events.filter((event) => event.kind === kind).length;
  }

  /** Resolves when there have been `count` events of the kind, counted from the start. */
  seen(kind: CacheEvent["kind"], count: number): Promise<void> {
    return new Promise((resolve) => {
      const look = (): void => {
        if (this.count(kind) < count) return;
        this.#waiters.delete(look);
        resolve();
      };
      this.#waiters.add(look);
      look();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cache.close();
  }
}

function baseOf(fixture: SandboxFixture, argv: [string, ...string[]], onStep: (vmId: string, step: string) => void) {
  return createDirectFactory({ runDir: fixture.runDir, mode: "idle", leaseMs: 20_000, logLevel: "info", argv, onStep });
}

async function adopt(socket: string, token: string) {
  const client = new TtrpcClient(await connectUnix(socket));
  await createTtrpcClient(SandboxService, client).adopt({ token });
  return client;
}

describe("filling and handing out", () => {
  test("fills its slots, gives each VM once, refills at once", async () => {
    using fixture = sandboxFixture();
    await using it = new TestCache(fixture);
    await it.seen("ready", 2);
    expect(it.cache.slots.map((slot) => slot.state)).toEqual(["idle", "idle"]);
    const [one, two] = await Promise.all([it.cache.take(never), it.cache.take(never)]);
    expect(one.facts.vmId).not.toBe(two.facts.vmId);
    expect(one.lease.token).not.toBe(two.lease.token);
    await it.seen("ready", 4);
    expect(it.cache.counters).toMatchObject({ hits: 2, boots: 4, bootFailures: 0, losses: 0 });
    const client = await adopt(one.facts.socket, one.lease.token);
    await it.cache.close();
    // What was handed out lives on.
    expect(isAlive(one.facts.sandbox)).toBe(true);
    client.close();
    await processExit(one.facts.sandbox);
    const other = await adopt(two.facts.socket, two.lease.token);
    other.close();
    await processExit(two.facts.sandbox);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("the one that is ready longest goes first", async () => {
    using fixture = sandboxFixture();
    await using it = new TestCache(fixture, { slots: 3, bootsAtOnce: 1 });
    await it.seen("ready", 3);
    const order = it.events.flatMap((event) => (event.kind === "ready" ? [event.vmId] : []));
    const taken = [await it.cache.take(never), await it.cache.take(never), await it.cache.take(never)];
    expect(taken.map((vm) => vm.facts.vmId)).toEqual(order);
    for (const vm of taken) await vm.revoke();
  });

  test("never more boots at once than allowed", async () => {
    using fixture = sandboxFixture();
    let most = 0;
    let now = 0;
    await using it = new TestCache(fixture, {
      slots: 5,
      bootsAtOnce: 2,
      onEvent: (event) => {
        if (event.kind === "booting") now += 1;
        if (event.kind === "ready") now -= 1;
        most = Math.max(most, now);
        if (event.kind === "ready" && --left === 0) done.resolve();
      },
    });
    let left = 5;
    const done = Promise.withResolvers<void>();
    await done.promise;
    expect(most).toBe(2);
    expect(it.cache.counters.boots).toBe(5);
  });
});

describe("claims that wait", () => {
  test("first come, first served; one that cancels leaves and costs nothing", async () => {
    using fixture = sandboxFixture();
    const hold = `${fixture.dir}/hold`;
    writeFileSync(hold, "");
    fixture.script({ holdFile: hold });
    await using it = new TestCache(fixture, { slots: 1 });
    const order: string[] = [];
    const abort = new AbortController();
    const claim = async (name: string, signal = never) => {
      const vm = await it.cache.take(signal);
      order.push(name);
      return vm;
    };
    const first = claim("first");
    const second = rejection(claim("second", abort.signal));
    const third = claim("third");
    expect(it.cache.waiting).toBe(3);
    abort.abort(new HearthError("cancelled", "client went away"));
    expect(await second).toMatchObject({ code: "cancelled", message: "client went away" });
    expect(it.cache.waiting).toBe(2);
    rmSync(hold);
    const vms = [await first, await third];
    expect(order).toEqual(["first", "third"]);
    expect(it.cache.counters).toMatchObject({ hits: 2, misses: { "gave-up": 1 } });
    for (const vm of vms) await vm.revoke();
  });

  test("a full queue answers at once", async () => {
    using fixture = sandboxFixture();
    const hold = `${fixture.dir}/hold`;
    writeFileSync(hold, "");
    fixture.script({ holdFile: hold });
    await using it = new TestCache(fixture, { slots: 1, queueLengthMax: 2 });
    const waiting = [rejection(it.cache.take(never)), rejection(it.cache.take(never))];
    expect(await rejection(it.cache.take(never))).toMatchObject({ code: "resource-exhausted" });
    expect(it.cache.counters.misses["queue-full"]).toBe(1);
    rmSync(hold);
    // Both are served, or closed with the cache; either way they end.
    await it.cache.close();
    for (const ended of waiting) expect(await ended).toMatchObject({ code: "unavailable" });
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a claim that is aborted already takes nothing", async () => {
    using fixture = sandboxFixture();
    await using it = new TestCache(fixture, { slots: 1 });
    await it.seen("ready", 1);
    const reason = new HearthError("cancelled", "too late");
    expect(await rejection(it.cache.take(AbortSignal.abort(reason)))).toBe(reason);
    expect(it.cache.slots[0]?.state).toBe("idle");
    expect(it.cache.counters.hits).toBe(0);
  });

  test("a claim that is aborted while it is being served leaks no VM", async () => {
    using fixture = sandboxFixture();
    await using it = new TestCache(fixture, { slots: 1 });
    await it.seen("ready", 1);
    const abort = new AbortController();
    const claim = rejection(it.cache.take(abort.signal));
    queueMicrotask(() => abort.abort(new HearthError("cancelled", "gone")));
    expect(await claim).toMatchObject({ code: "cancelled" });
    await it.cache.close();
    expect(fixture.leftovers()).toEqual([]);
  });
});

describe("VMs that are no good", () => {
  test("one whose sandbox process is killed is noticed, cleaned up and replaced", async () => {
    using fixture = sandboxFixture();
    await using it = new TestCache(fixture);
    await it.seen("ready", 2);
    const victim = it.cache.slots[0]?.vm;
    if (victim === undefined) throw new Error("no vm");
    process.kill(victim.sandbox.pid, "SIGKILL");
    await it.seen("lost", 1);
    await it.seen("ready", 3);
    expect(it.cache.counters).toMatchObject({ losses: 1, bootFailures: 0 });
    expect(it.cache.slots.map((slot) => slot.state)).toEqual(["idle", "idle"]);
    expect(fixture.leftovers().join(" ")).not.toContain(victim.vmId);
  });

  test("one whose QEMU is killed ends itself and is replaced", async () => {
    using fixture = sandboxFixture();
    await using it = new TestCache(fixture, { slots: 1 });
    await it.seen("ready", 1);
    process.kill(it.cache.slots[0]?.vm?.qemuPid ?? 0, "SIGKILL");
    await it.seen("ready", 2);
    expect(it.cache.counters.losses).toBe(1);
  });

  test.each(["error", "die", "hang"] as const)(
    "a lease that ends in %s costs that VM, the claim gets the next",
    async (how) => {
      using fixture = sandboxFixture();
      await using it = new TestCache(fixture, { slots: 1, leaseTimeoutMs: 300 });
      await it.seen("ready", 1);
      const bad = it.cache.slots[0]?.vm?.vmId;
      fixture.script({ rpc: { lease: how } });
      const claim = it.cache.take(never);
      await it.seen("lost", 1);
      fixture.script({});
      const vm = await claim;
      expect(vm.facts.vmId).not.toBe(bad);
      expect(fixture.leftovers()).not.toContain(`directory ${bad}`);
      expect(it.cache.counters).toMatchObject({ hits: 1, losses: expect.any(Number) });
      expect(it.cache.counters.losses).toBeGreaterThanOrEqual(1);
      await vm.revoke();
    },
  );

  test("one that somebody else has leased is let go and not destroyed", async () => {
    using fixture = sandboxFixture();
    await using it = new TestCache(fixture, { slots: 1 });
    await it.seen("ready", 1);
    const facts = it.cache.slots[0]?.vm;
    if (facts === undefined) throw new Error("no vm");
    await using client = new TtrpcClient(await connectUnix(facts.socket));
    const sandbox = createTtrpcClient(SandboxService, client);
    await sandbox.lease({ token: "y".repeat(32), leaseMs: 20_000 });
    const vm = await it.cache.take(never);
    expect(vm.facts.vmId).not.toBe(facts.vmId);
    expect(isAlive(facts.sandbox)).toBe(true);
    await sandbox.adopt({ token: "y".repeat(32) });
    await sandbox.destroy({});
    await vm.revoke();
  });

  test("the regular check finds one that does not answer", async () => {
    using fixture = sandboxFixture();
    await using it = new TestCache(fixture, { slots: 1, checkIntervalMs: 20 });
    await it.seen("ready", 1);
    fixture.script({ rpc: { check: "error" } });
    await it.seen("lost", 1);
    fixture.script({});
    await it.seen("ready", 2);
    const vm = await it.cache.take(never);
    await vm.revoke();
  });
});

describe("proof of life", () => {
  test("few VMs are checked at once, and each has its turn", async () => {
    using fixture = sandboxFixture();
    let most = 0;
    await using it = new TestCache(fixture, {
      slots: 6,
      checkIntervalMs: 20,
      onEvent: ({ kind }) => {
        if (kind !== "checked") return;
        most = Math.max(most, it.cache.slots.filter(({ state }) => state === "checking").length);
      },
    });
    await it.seen("ready", 6);
    const before = it.events.length;
    await it.seen("checked", it.count("checked") + 18);
    const checked = it.events.slice(before).flatMap((event) => (event.kind === "checked" ? [event.vmId] : []));
    expect(new Set(checked).size).toBe(6);
    expect(most).toBe(VM_CHECKS_AT_ONCE_MAX);
  });

  test("a VM that has just booted is leased on its word", async () => {
    using fixture = sandboxFixture();
    await using it = new TestCache(fixture, { slots: 1 });
    await it.seen("ready", 1);
    const vm = await it.cache.take(never);
    expect(fixture.calls()).toEqual(["lease"]);
    await vm.revoke();
  });

  test("the agent of a VM that was taken over from an earlier server is asked when it is leased", async () => {
    using fixture = sandboxFixture();
    const direct = baseOf(fixture, fixture.argv, () => {});
    const { vmId } = await direct.getBaseVm(VM_CONFIG, never);
    const settings = testSettings({ number: 1 });
    await using pool = new VmPool({ settings, runDir: fixture.runDir, base: () => direct });
    expect(pool.adopt(await connectIdleVm({ runDir: fixture.runDir, vmId }))).toBe(true);
    const vm = await pool.take(never);
    expect(fixture.calls()).toEqual(["lease with agent"]);
    await vm.revoke();
  });

  test("one that was taken over and is not asked for is checked at the next look", async () => {
    using fixture = sandboxFixture();
    const direct = baseOf(fixture, fixture.argv, () => {});
    const { vmId } = await direct.getBaseVm(VM_CONFIG, never);
    const { promise, resolve } = Promise.withResolvers<CacheEvent>();
    await using pool = new VmPool({
      settings: testSettings({ number: 1 }),
      runDir: fixture.runDir,
      base: () => direct,
      lookIntervalMs: 10,
      onEvent: resolve,
    });
    pool.adopt(await connectIdleVm({ runDir: fixture.runDir, vmId }));
    expect(await promise).toMatchObject({ kind: "checked", vmId });
  });

  test("the one that is next in line is asked again and again, so that a claim need not ask it", async () => {
    using fixture = sandboxFixture();
    await using it = new TestCache(fixture, { slots: 2, bootsAtOnce: 1, provenMs: 40, lookIntervalMs: 20 });
    await it.seen("ready", 2);
    await it.seen("checked", 3);
    const [next] = it.events.flatMap((event) => (event.kind === "ready" ? [event.vmId] : []));
    const checked = it.events.flatMap((event) => (event.kind === "checked" ? [event.vmId] : []));
    expect(new Set(checked)).toEqual(new Set([next ?? ""]));
  });

  test("after the host was suspended all idle VMs are checked at once", async () => {
    using fixture = sandboxFixture();
    let sleptMs = 1000;
    await using it = new TestCache(fixture, { slots: 2, lookIntervalMs: 10, suspendedMs: () => sleptMs });
    await it.seen("ready", 2);
    expect(fixture.calls()).toEqual([]);
    sleptMs += 60_000;
    await it.seen("checked", 2);
    expect(fixture.calls()).toEqual(["check", "check"]);
    expect(it.cache.counters.suspensions).toBe(1);
  });

  test("a claim may be the first to notice that the host was suspended: it waits for the check", async () => {
    using fixture = sandboxFixture();
    let sleptMs = 1000;
    await using it = new TestCache(fixture, { slots: 1, lookIntervalMs: 600_000, suspendedMs: () => sleptMs });
    await it.seen("ready", 1);
    sleptMs += 60_000;
    const vm = await it.cache.take(never);
    expect(fixture.calls()).toEqual(["check", "lease"]);
    await vm.revoke();
  });

  test("the clocks of this host agree that it is not suspended now", () => {
    const asleepMs = (): number => Number((clockNanoseconds("boottime") - clockNanoseconds("monotonic")) / 1_000_000n);
    expect(Math.abs(asleepMs() - asleepMs())).toBeLessThan(SUSPENSION_MS_MIN);
  });
});

test("a VM that is too old is replaced, one at a time", async () => {
  using fixture = sandboxFixture();
  await using it = new TestCache(fixture, { slots: 3, ageMaxMs: 400, lookIntervalMs: 10, bootsAtOnce: 3 });
  await it.seen("retired", 4);
  const order = it.events.map(({ kind }) => kind).filter((kind) => kind === "retired" || kind === "ready");
  expect(order.slice(0, 3)).toEqual(["ready", "ready", "ready"]);
  // Never two without one that is ready between them.
  expect(order.slice(3, 10).join(" ")).toBe("retired ready retired ready retired ready retired");
  expect(it.cache.counters).toMatchObject({ losses: 0, bootFailures: 0 });
  expect(it.cache.counters.retired).toBeGreaterThanOrEqual(4);
});

describe("boots that fail", () => {
  test("each slot backs off by itself, longer each time, and the pool comes back by itself", async () => {
    using fixture = sandboxFixture();
    fixture.script({ launch: { "launch-qemu": "error" } });
    await using it = new TestCache(fixture, { slots: 1 });
    await it.seen("failed", 4);
    const status = it.cache.slots.find((slot) => slot.failures > 0);
    expect(status?.lastError).toContain("scripted failure");
    const waits = it.events.flatMap((event) => (event.kind === "failed" ? [event.retryMs] : []));
    expect(waits.slice(0, 4)).toEqual([5, 10, 20, 40]);
    fixture.script({});
    const vm = await it.cache.take(never);
    expect(it.cache.counters.bootFailures).toBeGreaterThanOrEqual(4);
    await vm.revoke();
    await it.seen("ready", 2);
    expect(it.cache.slots.map((slot) => slot.lastError)).toEqual([undefined]);
  });

  test("one bad slot does not hold up the others", async () => {
    using fixture = sandboxFixture();
    let boots = 0;
    await using it = new TestCache(fixture, {
      slots: 2,
      backoff: { minMs: 60_000, maxMs: 60_000 },
      base: (onStep) => baseOf(fixture, boots++ === 0 ? ["/bin/false"] : fixture.argv, onStep),
    });
    await it.seen("failed", 1);
    const vm = await it.cache.take(never);
    expect(it.cache.slots[0]).toMatchObject({ state: "backing-off", failures: 1 });
    await vm.revoke();
  });

  test("a VM that dies young backs its slot off", async () => {
    using fixture = sandboxFixture();
    await using it = new TestCache(fixture, { slots: 1, stableMs: 60_000 });
    await it.seen("ready", 1);
    process.kill(it.cache.slots[0]?.vm?.sandbox.pid ?? 0, "SIGKILL");
    await it.seen("failed", 1);
    await it.seen("ready", 2);
  });

  test("a VM that is ready but cannot be connected is ended", async () => {
    using fixture = sandboxFixture();
    fixture.script({ rpc: { info: "error" } });
    await using it = new TestCache(fixture, { slots: 1, backoff: { minMs: 60_000, maxMs: 60_000 } });
    await it.seen("failed", 1);
    expect(it.cache.slots[0]?.lastError).toContain("info: scripted failure");
    expect(fixture.leftovers()).toEqual([]);
  });
});

describe("closing", () => {
  test("ends boots under way, fails waiting claims, destroys what is idle", async () => {
    using fixture = sandboxFixture();
    const [bun, program = ""] = fixture.argv;
    const hanging: [string, ...string[]] = [bun, program, `${fixture.dir}/hang.json`];
    writeFileSync(`${fixture.dir}/hang.json`, JSON.stringify({ launch: { "wait-for-agent": "hang" } }));
    let boots = 0;
    const base: VmPoolOptions["base"] = (onStep) => baseOf(fixture, boots++ < 2 ? fixture.argv : hanging, onStep);
    await using it = new TestCache(fixture, { slots: 3, base });
    await it.seen("ready", 2);
    await it.seen("booting", 3);
    const taken = await it.cache.take(never);
    await it.cache.take(never).then((vm) => vm.revoke());
    const waiting = rejection(it.cache.take(never));
    await it.cache.close();
    expect(await waiting).toMatchObject({ code: "unavailable" });
    expect(await rejection(it.cache.take(never))).toMatchObject({ code: "unavailable" });
    expect(processesMentioning(`${fixture.dir}/hang.json`)).toEqual([]);
    await taken.revoke();
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a VM that does not obey is killed", async () => {
    using fixture = sandboxFixture();
    await using it = new TestCache(fixture, { slots: 1 });
    await it.seen("ready", 1);
    fixture.script({ ignoreTerm: true, rpc: { destroy: "error" } });
    await it.cache.close();
    expect(fixture.leftovers()).toEqual([]);
  }, 20_000);
});

test("an idle VM is taken in without a boot", async () => {
  using fixture = sandboxFixture();
  const direct = createDirectFactory({
    runDir: fixture.runDir,
    mode: "idle",
    leaseMs: 1000,
    logLevel: "info",
    argv: fixture.argv,
  });
  const base = await direct.getBaseVm(VM_CONFIG, never);
  const cache = new VmPool({ settings: testSettings({ number: 1 }), runDir: fixture.runDir, base: () => direct });
  const vm = await connectIdleVm({ runDir: fixture.runDir, vmId: base.vmId });
  expect(cache.adopt(vm)).toBe(true);
  cache.start();
  expect(cache.slots[0]?.vm?.vmId).toBe(base.vmId);
  expect(fixture.launches()).toEqual([base.vmId]);
  expect(cache.adopt(vm)).toBe(false);
  await cache.close();
  expect(fixture.leftovers()).toEqual([]);
});
