import { describe, expect, test } from "bun:test";
import { DEFAULT_CONFIG } from "../../src/config/defaults.ts";
import { HearthError } from "../../src/errors.ts";
import type { BaseVm } from "../../src/factory/base-factory.ts";
import { createFactory, type FactoryOptions, factoryOptions } from "../../src/factory/factory.ts";
import { CacheService } from "../../src/gen/cache_pb.ts";
import { SandboxService } from "../../src/gen/sandbox_pb.ts";
import { type Log, type LogFields, silentLog } from "../../src/log.ts";
import { createGrpcServer, registerGrpcService } from "../../src/rpc/grpc.ts";
import { TtrpcClient } from "../../src/rpc/ttrpc/client.ts";
import { createTtrpcClient } from "../../src/rpc/ttrpc/descriptors.ts";
import type { ByteStream } from "../../src/sys/byte-stream.ts";
import { isAlive, processExit } from "../../src/sys/process-identity.ts";
import { connectUnix, listenUnix } from "../../src/sys/unix-socket.ts";
import { PoolInProcess } from "../harness/pool-fixture.ts";
import { rejection } from "../harness/rejection.ts";
import { type SandboxFixture, sandboxFixture, VM_CONFIG } from "../harness/sandbox-fixture.ts";

const never = new AbortController().signal;

/** Keeps the warnings. */
class Warnings {
  readonly list: LogFields[] = [];
  readonly log: Log = { ...silentLog, warn: (_event, fields = {}) => this.list.push(fields), with: () => silentLog };

  get reasons(): unknown[] {
    return this.list.map((fields) => fields["reason"]);
  }
}

function options(fixture: SandboxFixture, log: Log, endpoint: string, timeoutMs = 2000): FactoryOptions {
  return {
    runDir: fixture.runDir,
    leaseMs: 20_000,
    logLevel: "info",
    argv: fixture.argv,
    log,
    pool: { endpoint, timeoutMs },
    templateDir: undefined,
  };
}

async function adopt(vm: BaseVm): Promise<TtrpcClient> {
  const client = new TtrpcClient(await connectUnix(vm.sandboxSocket));
  try {
    await createTtrpcClient(SandboxService, client).adopt({ token: vm.token });
    return client;
  } catch (thrown) {
    client.close();
    throw thrown;
  }
}

async function expectBooted(fixture: SandboxFixture, endpoint: string, reason: string, timeoutMs?: number) {
  const warnings = new Warnings();
  const startedAt = performance.now();
  const vm = await createFactory(options(fixture, warnings.log, endpoint, timeoutMs)).getVm(VM_CONFIG, never);
  const tookMs = performance.now() - startedAt;
  expect(vm.source).toBe("direct");
  expect(warnings.reasons).toEqual([reason]);
  (await adopt(vm)).close();
  await processExit(vm.sandbox);
  return tookMs;
}

describe("a pool that is fine", () => {
  test("gives the VM, without a warning", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, { number: 1 });
    await pool.seen("ready");
    const warnings = new Warnings();
    const factory = createFactory(options(fixture, warnings.log, pool.options.endpoint));
    const { vm, adopted } = await factory.getAdopted(VM_CONFIG, never, adopt);
    expect(vm.source).toBe("pool");
    expect(warnings.list).toEqual([]);
    adopted.close();
    await processExit(vm.sandbox);
    await pool.stop();
    expect(fixture.leftovers()).toEqual([]);
  });

  test("whose VM cannot be adopted costs a warning, and the container gets a booted one", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, { number: 1 });
    await pool.seen("ready");
    const warnings = new Warnings();
    const factory = createFactory(options(fixture, warnings.log, pool.options.endpoint));
    const { vm, adopted } = await factory.getAdopted(VM_CONFIG, never, async (candidate) => {
      if (candidate.source !== "pool") return await adopt(candidate);
      process.kill(candidate.sandbox.pid, "SIGKILL");
      await processExit(candidate.sandbox);
      return await adopt(candidate);
    });
    expect(vm.source).toBe("direct");
    expect(warnings.reasons).toEqual(["not-adoptable"]);
    adopted.close();
    await processExit(vm.sandbox);
  });
});

describe("a pool that gives nothing costs one warning and at most its deadline", () => {
  test("no server", async () => {
    using fixture = sandboxFixture();
    await expectBooted(fixture, `${fixture.dir}/none.sock`, "absent");
    expect(fixture.leftovers()).toEqual([]);
  });

  test("an endpoint path that is too long", async () => {
    using fixture = sandboxFixture();
    await expectBooted(fixture, `/tmp/${"x".repeat(120)}`, "failing");
  });

  const oddServers: [string, string, (stream: ByteStream) => void][] = [
    ["accepts and says nothing", "timeout", () => {}],
    ["hangs up", "absent", (stream) => stream.close()],
    [
      "speaks something else",
      "absent",
      (stream) => void stream.write(new TextEncoder().encode("220 mail ESMTP\r\n")).catch(() => {}),
    ],
  ];
  test.each(oddServers)("a program that %s", async (_name, reason, behave) => {
    using fixture = sandboxFixture();
    const streams: ByteStream[] = [];
    await using listener = await listenUnix(`${fixture.dir}/odd.sock`, (stream) => {
      streams.push(stream);
      behave(stream);
    });
    const tookMs = await expectBooted(fixture, listener.path, reason, 300);
    expect(tookMs).toBeLessThan(3000);
    for (const stream of streams) stream.close();
  });

  test("another identity", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, { number: 1, vmConfig: { ...VM_CONFIG, guestDigest: "22" } });
    await pool.seen("ready");
    await expectBooted(fixture, pool.options.endpoint, "mismatch");
    expect((await pool.status()).missesByReason["mismatch"]).toBe(1);
  });

  test("an empty pool, past the deadline", async () => {
    using fixture = sandboxFixture();
    using hanging = sandboxFixture();
    hanging.script({ launch: { "launch-qemu": "hang" } });
    await using pool = new PoolInProcess(fixture, { number: 1, sandboxArgv: hanging.argv });
    await pool.seen("step");
    const tookMs = await expectBooted(fixture, pool.options.endpoint, "timeout", 200);
    expect(tookMs).toBeGreaterThanOrEqual(200);
    await pool.stop();
    expect(fixture.leftovers()).toEqual([]);
    expect(hanging.leftovers()).toEqual([]);
  });

  test("a pool whose every boot fails", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, { number: 1, sandboxArgv: ["/bin/false"] });
    await pool.seen("failed", 2);
    await expectBooted(fixture, pool.options.endpoint, "timeout", 200);
  });

  const lies: [string, object][] = [
    ["an error", {}],
    ["nothing but an id", { id: "x" }],
    ["JSON that is no record", { id: "x", hypervisor: new TextEncoder().encode("{}") }],
    ["no JSON", { id: "x", hypervisor: new Uint8Array([255, 0]) }],
  ];
  test.each(lies)("a server that gives %s for a VM", async (name, vm) => {
    using fixture = sandboxFixture();
    const { encodePoolConfig } = await import("../../src/factory/pool-wire.ts");
    await using server = createGrpcServer([
      registerGrpcService(CacheService, {
        config: () => encodePoolConfig(VM_CONFIG),
        getBaseVM: () => {
          if (name === "an error") throw new HearthError("internal", "broken");
          return vm;
        },
      }),
    ]);
    await using listener = await listenUnix(`${fixture.dir}/lies.sock`, (stream) => server.accept(stream));
    await expectBooted(fixture, listener.path, "failing");
  });

  test("Kata's own server: its configuration is not ours", async () => {
    using fixture = sandboxFixture();
    const bytes = await Bun.file(`${import.meta.dir}/../fixtures/kata-wire/GrpcVMConfig.bin`).bytes();
    const { fromBinary } = await import("@bufbuild/protobuf");
    const { GrpcVMConfigSchema } = await import("../../src/gen/cache_pb.ts");
    await using server = createGrpcServer([
      registerGrpcService(CacheService, { config: () => fromBinary(GrpcVMConfigSchema, bytes) }),
    ]);
    await using listener = await listenUnix(`${fixture.dir}/kata.sock`, (stream) => server.accept(stream));
    await expectBooted(fixture, listener.path, "failing");
  });
});

describe("without the pool's help", () => {
  test("when booting fails too, that is the error, and the caller's abort is its own", async () => {
    using fixture = sandboxFixture();
    fixture.script({ launch: { "launch-qemu": "error" } });
    const warnings = new Warnings();
    const factory = createFactory(options(fixture, warnings.log, `${fixture.dir}/none.sock`));
    expect(await rejection(factory.getVm(VM_CONFIG, never))).toMatchObject({ facts: { step: "launch-qemu" } });
    expect(warnings.reasons).toEqual(["absent"]);
    const reason = new HearthError("cancelled", "enough");
    expect(await rejection(factory.getVm(VM_CONFIG, AbortSignal.abort(reason)))).toBe(reason);
    expect(warnings.reasons).toEqual(["absent"]);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("sizes that contradict each other are refused before anything is made", async () => {
    using fixture = sandboxFixture();
    const factory = createFactory({ ...options(fixture, silentLog, ""), pool: undefined });
    for (const bad of [{ vcpus: 3 }, { vcpus: 0 }, { memoryMib: 4096 }, { memoryMib: 0 }]) {
      expect(await rejection(factory.getVm({ ...VM_CONFIG, ...bad }, never))).toMatchObject({
        code: "invalid-argument",
      });
    }
    expect(fixture.launches()).toEqual([]);
  });

  test("a pool VM that fails the adoption is not replaced for a caller that has gone", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, { number: 1 });
    await pool.seen("ready");
    const factory = createFactory(options(fixture, silentLog, pool.options.endpoint));
    const abort = new AbortController();
    let seen: BaseVm | undefined;
    const failed = factory.getAdopted(VM_CONFIG, abort.signal, async (vm) => {
      seen = vm;
      abort.abort();
      throw new HearthError("cancelled", "gone");
    });
    expect(await rejection(failed)).toMatchObject({ message: "gone" });
    expect(seen?.source).toBe("pool");
    if (seen !== undefined && isAlive(seen.sandbox)) process.kill(seen.sandbox.pid, "SIGTERM");
  });

  test("what the configuration says", () => {
    expect(factoryOptions(DEFAULT_CONFIG, silentLog).pool).toBeUndefined();
    const factory = { ...DEFAULT_CONFIG.factory, vm_cache_number: 2 };
    expect(factoryOptions({ ...DEFAULT_CONFIG, factory }, silentLog).pool).toEqual({
      endpoint: "/run/hearth/cache.sock",
      timeoutMs: 500,
    });
  });
});
