/** Several sizes of VM side by side, and settings that change while the pool runs. */
import { describe, expect, test } from "bun:test";
import { unlinkSync, writeFileSync } from "node:fs";
import { HearthError } from "../../src/errors.ts";
import type { PoolSettings } from "../../src/factory/vm-pool.ts";
import { CacheService } from "../../src/gen/cache_pb.ts";
import { SandboxService } from "../../src/gen/sandbox_pb.ts";
import { createGrpcClient, GrpcClient } from "../../src/rpc/grpc.ts";
import { TtrpcClient } from "../../src/rpc/ttrpc/client.ts";
import { createTtrpcClient } from "../../src/rpc/ttrpc/descriptors.ts";
import { isAlive, processExit } from "../../src/sys/process-identity.ts";
import { connectUnix } from "../../src/sys/unix-socket.ts";
import type { PoolStatus } from "../../src/vmcache/control.ts";
import type { SettingsListener } from "../../src/vmcache/server.ts";
import { type PoolChanges, PoolInProcess, PoolProcess, poolClient, testSettings } from "../harness/pool-fixture.ts";
import { rejection } from "../harness/rejection.ts";
import { type SandboxFixture, sandboxFixture, VM_CONFIG } from "../harness/sandbox-fixture.ts";

const never = new AbortController().signal;
const SMALL = { ...VM_CONFIG, vcpus: 1, memoryMib: 128 };
const LARGE = { ...VM_CONFIG, vcpus: 2, memoryMib: 512 };
const twoSizes: Partial<PoolSettings> = {
  shapes: [
    { config: SMALL, number: 2 },
    { config: LARGE, number: 1 },
  ],
};

/** A pool whose settings the test changes. */
class ChangingPool extends PoolInProcess {
  readonly listener: { current: SettingsListener | undefined };

  constructor(fixture: SandboxFixture, changes: PoolChanges) {
    const listener: ChangingPool["listener"] = { current: undefined };
    const follow = (given: SettingsListener) => {
      listener.current = given;
      return { [Symbol.asyncDispose]: async () => {} };
    };
    super(fixture, { ...changes, follow });
    this.listener = listener;
  }

  change(settings: Partial<PoolSettings>): void {
    this.listener.current?.changed(testSettings({ settings }));
  }
}

function idleSizes({ idle }: PoolStatus): number[] {
  return idle.map(({ memoryMib }) => memoryMib).sort((a, b) => a - b);
}

describe("sizes side by side", () => {
  test("each has its own number, identity and slots, and status shows them", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, { settings: twoSizes });
    await pool.seen("ready", 3);
    const status = await pool.status();
    expect(status.shapes).toMatchObject([
      { name: "1x128", vcpus: 1, memoryMib: 128, number: 2, idle: 2, booting: 0, waiting: 0 },
      { name: "2x512", vcpus: 2, memoryMib: 512, number: 1, idle: 1, booting: 0, waiting: 0 },
    ]);
    expect(status.shapes[0]?.identity).not.toBe(status.shapes[1]?.identity);
    expect(status.slots.map(({ shape, index }) => `${shape}/${index}`)).toEqual(["1x128/0", "1x128/1", "2x512/0"]);
    expect(idleSizes(status)).toEqual([128, 128, 512]);
    expect(status.memoryMib).toBe(768);
    await pool.stop();
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a client gets the size it names, or the best fit, whatever its own default is", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, { settings: twoSizes });
    await pool.seen("ready", 3);
    const claim = async (vcpus: number, memoryMib: number) => {
      const client = poolClient(pool.options.endpoint, 10_000, { vcpus, memoryMib });
      const vm = await client.getBaseVm(VM_CONFIG, never);
      return [vm.vcpus, vm.memoryMib];
    };
    expect(await claim(1, 128)).toEqual([1, 128]);
    expect(await claim(1, 129)).toEqual([2, 512]);
    // More than any has: the largest, which the client grows.
    expect(await claim(2, 9999)).toEqual([2, 512]);
    // A client that names no size of its own needs that of its configuration.
    expect((await poolClient(pool.options.endpoint).getBaseVm(VM_CONFIG, never)).memoryMib).toBe(512);
  });

  test("a client that says nothing, as Kata's does, gets the first", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, { settings: twoSizes });
    await pool.seen("ready", 3);
    await using client = new GrpcClient(pool.options.endpoint);
    const cache = createGrpcClient(CacheService, client);
    const config: unknown = JSON.parse(new TextDecoder().decode((await cache.config({})).Data));
    expect(config).toMatchObject({ identity: { vcpus: 1, memoryMib: 128 } });
    expect(await cache.getBaseVM({})).toMatchObject({ cpu: 1, memory: 128 });
  });

  test.each(["0", "-1", "1e3", "999999999999", "lots"])("a need of %j is refused, not guessed at", async (text) => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, { settings: twoSizes });
    await pool.seen("ready", 3);
    await using client = new GrpcClient(pool.options.endpoint);
    const cache = createGrpcClient(CacheService, client);
    const error = await rejection(cache.getBaseVM({}, { metadata: { "hearth-memory-mib": text } }));
    expect(error).toMatchObject({ code: "invalid-argument" });
    expect(await pool.status()).toMatchObject({ hits: 0, losses: 0 });
  });

  test("a server that starts anew takes over the VMs of every size, as many as each may have", async () => {
    using fixture = sandboxFixture();
    await using first = new PoolProcess(fixture, { settings: twoSizes });
    await first.seen("ready", 3);
    first.child.kill(9);
    await first.child.exited;
    const shapes = [
      { config: LARGE, number: 2 },
      { config: SMALL, number: 1 },
    ];
    await using second = new PoolInProcess(fixture, { settings: { shapes } });
    await second.seen("ready", 1);
    const status = await second.status();
    expect(idleSizes(status)).toEqual([128, 512, 512]);
    expect(status).toMatchObject({ adopted: 2, boots: 1 });
    await second.stop();
    expect(fixture.leftovers()).toEqual([]);
  });
});

describe("settings that change", () => {
  test("a number that grows or shrinks boots or ends so many and touches no other", async () => {
    using fixture = sandboxFixture();
    await using pool = new ChangingPool(fixture, { settings: twoSizes });
    await pool.seen("ready", 3);
    const before = (await pool.status()).idle.map(({ id }) => id);
    pool.change({
      shapes: [
        { config: SMALL, number: 1 },
        { config: LARGE, number: 3 },
      ],
    });
    await pool.seen("ready", 5);
    const status = await pool.status();
    expect(idleSizes(status)).toEqual([128, 512, 512, 512]);
    expect(status).toMatchObject({ drained: 1, losses: 0, boots: 5 });
    expect(status.slots.filter(({ state }) => state !== "ending").length).toBe(4);
    expect(status.idle.filter(({ id }) => before.includes(id)).length).toBe(2);
  });

  test("another shape or identity drains what no longer matches, and only that", async () => {
    using fixture = sandboxFixture();
    await using pool = new ChangingPool(fixture, { settings: twoSizes });
    await pool.seen("ready", 3);
    const large = (await pool.status()).idle.find(({ memoryMib }) => memoryMib === 512)?.id;
    const shapes = [
      { config: { ...VM_CONFIG, memoryMib: 256 }, number: 1 },
      { config: LARGE, number: 1 },
    ];
    pool.change({ shapes });
    await pool.seen("ready", 4);
    const status = await pool.status();
    expect(idleSizes(status)).toEqual([256, 512]);
    expect(status).toMatchObject({ drained: 2, boots: 4 });
    expect(status.idle.map(({ id }) => id)).toContain(large ?? "");
    // The kernel is another: all of them go.
    pool.change({ shapes: shapes.map(({ config, number }) => ({ config: { ...config, guestDigest: "77" }, number })) });
    await pool.seen("ready", 6);
    expect((await pool.status()).drained).toBe(4);
    const old = await rejection(poolClient(pool.options.endpoint).getBaseVm(VM_CONFIG, never));
    expect(old).toMatchObject({ name: "PoolMismatchError" });
    await pool.stop();
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a claim that waits for a shape that goes gets what fits best then", async () => {
    using fixture = sandboxFixture();
    const hold = `${fixture.dir}/hold`;
    writeFileSync(hold, "");
    fixture.script({ holdFile: hold });
    await using pool = new ChangingPool(fixture, { settings: { shapes: [{ config: SMALL, number: 1 }] } });
    await pool.seen("step", 1);
    const claim = poolClient(pool.options.endpoint).getBaseVm(SMALL, never);
    while ((await pool.status()).waiting < 1);
    pool.change({ shapes: [{ config: LARGE, number: 1 }] });
    unlinkSync(hold);
    expect((await claim).memoryMib).toBe(512);
    expect(await pool.status()).toMatchObject({ hits: 1, misses: 0 });
  });

  test("VMs in use are left alone whatever changes", async () => {
    using fixture = sandboxFixture();
    await using pool = new ChangingPool(fixture, { settings: twoSizes });
    await pool.seen("ready", 3);
    const vm = await poolClient(pool.options.endpoint).getBaseVm(SMALL, never);
    const client = new TtrpcClient(await connectUnix(vm.sandboxSocket));
    await createTtrpcClient(SandboxService, client).adopt({ token: vm.token });
    pool.change({ shapes: [{ config: { ...VM_CONFIG, guestDigest: "77" }, number: 1 }] });
    await pool.seen("ready", 4);
    expect((await pool.status()).handedOut).toMatchObject([{ id: vm.vmId, state: "adopted" }]);
    expect(isAlive(vm.sandbox)).toBe(true);
    client.close();
    await processExit(vm.sandbox);
    await pool.stop();
    expect(fixture.leftovers()).toEqual([]);
  });

  test("settings that cannot be used are reported, and those before stay", async () => {
    using fixture = sandboxFixture();
    await using pool = new ChangingPool(fixture, { settings: twoSizes });
    await pool.seen("ready", 3);
    pool.listener.current?.refused(new HearthError("invalid-argument", "check configuration x: unknown key y"));
    expect(await pool.status()).toMatchObject({ configError: "check configuration x: unknown key y", drained: 0 });
    expect(idleSizes(await pool.status())).toEqual([128, 128, 512]);
    pool.change(twoSizes);
    expect(await pool.status()).toMatchObject({ configError: "", drained: 0, boots: 3 });
  });

  test("a slot that backs off tries at once: what it waits for may be what was mended", async () => {
    using fixture = sandboxFixture();
    fixture.script({ launch: { "launch-qemu": "error" } });
    const backoff = { minMs: 600_000, maxMs: 600_000 };
    const shapes = [{ config: SMALL, number: 1 }];
    await using pool = new ChangingPool(fixture, { settings: { shapes, backoff } });
    await pool.seen("failed", 1);
    fixture.script({});
    pool.change({ shapes, backoff });
    await pool.seen("ready", 1);
  });
});

describe("the bound of all VMs' memory", () => {
  test("is never exceeded, and what fits is booted", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, {
      settings: {
        memoryMaxMib: 800,
        bootsAtOnce: 9,
        shapes: [
          { config: LARGE, number: 3 },
          { config: SMALL, number: 9 },
        ],
      },
    });
    await pool.seen("ready", 3);
    expect(await pool.status()).toMatchObject({ memoryMib: 768, memoryMaxMib: 800 });
    // Those in use are the containers' and not the pool's: one more fits now.
    await poolClient(pool.options.endpoint).getBaseVm(SMALL, never);
    await pool.seen("ready", 4);
    expect(await pool.status()).toMatchObject({ memoryMib: 768 });
  });

  test("one that shrinks ends VMs, of the last shapes first", async () => {
    using fixture = sandboxFixture();
    await using pool = new ChangingPool(fixture, { settings: twoSizes });
    await pool.seen("ready", 3);
    pool.change({ ...twoSizes, memoryMaxMib: 600 });
    await pool.seen("drained", 1);
    expect(idleSizes(await pool.status())).toEqual([128, 128]);
    expect(await pool.status()).toMatchObject({ drained: 1 });
  });
});
