import { describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, statSync, unlinkSync, writeFileSync } from "node:fs";
import type { HearthError } from "../../src/errors.ts";
import type { BaseVm } from "../../src/factory/base-factory.ts";
import { CacheService } from "../../src/gen/cache_pb.ts";
import { SandboxService } from "../../src/gen/sandbox_pb.ts";
import { vmPaths } from "../../src/paths.ts";
import { createGrpcClient, GrpcClient } from "../../src/rpc/grpc.ts";
import { TtrpcClient } from "../../src/rpc/ttrpc/client.ts";
import { createTtrpcClient } from "../../src/rpc/ttrpc/descriptors.ts";
import { identifyProcess, isAlive, processExit, processStat, signalProcess } from "../../src/sys/process-identity.ts";
import { SIGKILL } from "../../src/sys/signals.ts";
import { connectUnix, listenUnix } from "../../src/sys/unix-socket.ts";
import { parseVmRecord, readVmRecord } from "../../src/vm/vm-record.ts";
import { stopVmCache, vmCacheStatus } from "../../src/vmcache/control.ts";
import { datagramReceiver } from "../harness/datagram.ts";
import { PoolInProcess, PoolProcess, poolClient } from "../harness/pool-fixture.ts";
import { rejection } from "../harness/rejection.ts";
import { sandboxFixture, VM_CONFIG } from "../harness/sandbox-fixture.ts";
import { scratch } from "../harness/scratch.ts";

const never = new AbortController().signal;

async function adopt(vm: BaseVm): Promise<TtrpcClient> {
  const client = new TtrpcClient(await connectUnix(vm.sandboxSocket));
  await createTtrpcClient(SandboxService, client).adopt({ token: vm.token });
  return client;
}

describe("serving", () => {
  test("hands out a VM that can be adopted; status tells the truth; quit leaves what is in use", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture);
    await pool.seen("ready", 2);
    const { endpoint } = pool.options;
    expect(statSync(endpoint).mode & 0o777).toBe(0o600);
    expect(statSync(fixture.runDir).mode & 0o777).toBe(0o700);
    const before = await pool.status();
    expect(before).toMatchObject({ pid: process.pid, waiting: 0, hits: 0, misses: 0, boots: 2, handedOut: [] });
    expect(before.idle.map((vm) => [vm.state, vm.vcpus, vm.memoryMib])).toEqual([
      ["idle", 1, 256],
      ["idle", 1, 256],
    ]);
    const vm = await poolClient(endpoint).getBaseVm(VM_CONFIG, never);
    expect(vm).toMatchObject({ source: "pool", vcpus: 1, memoryMib: 256 });
    expect(before.idle.map(({ id }) => id)).toContain(vm.vmId);
    expect(before.idle.map(({ sandboxPid }) => sandboxPid)).toContain(vm.sandbox.pid);
    const possession = await adopt(vm);
    await pool.seen("ready", 3);
    const after = await pool.status();
    expect(after).toMatchObject({ hits: 1, boots: 3 });
    expect(after.idle.length).toBe(2);
    expect(after.handedOut.map(({ id, state }) => [id, state])).toEqual([[vm.vmId, "adopted"]]);
    const client = new GrpcClient(endpoint);
    await createGrpcClient(CacheService, client).quit({});
    client.close();
    await pool.served;
    expect(existsSync(endpoint)).toBe(false);
    expect(isAlive(vm.sandbox)).toBe(true);
    possession.close();
    await processExit(vm.sandbox);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a client that takes a VM and never adopts it costs that VM and nothing else", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, { number: 1, settings: { leaseMs: 100 } });
    const vm = await poolClient(pool.options.endpoint).getBaseVm(VM_CONFIG, never);
    await processExit(vm.sandbox);
    await pool.seen("ready", 2);
    await pool.stop();
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a client of another identity is told so, and the miss is counted", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, { number: 1 });
    await pool.seen("ready");
    const other = { ...VM_CONFIG, memoryMib: 512, seccomp: false, kernelParams: ["debug"] };
    const error = await rejection(poolClient(pool.options.endpoint).getBaseVm(other, never));
    expect(error).toMatchObject({ name: "PoolMismatchError" });
    expect((error as HearthError).message).toContain("differ in kernelParams, seccomp");
    expect(await pool.status()).toMatchObject({ hits: 0, misses: 1, missesByReason: { mismatch: 1 } });
  });

  test("a client that names no identity is served, as Kata's client is", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, { number: 1 });
    await using client = new GrpcClient(pool.options.endpoint);
    const cache = createGrpcClient(CacheService, client);
    const config = await cache.config({});
    expect(JSON.parse(new TextDecoder().decode(config.Data))).toMatchObject({ identity: { memoryMib: 256 } });
    const vm = await cache.getBaseVM({});
    expect(vm.proxyURL).toBe(`unix://${fixture.runDir}/vm/${vm.id}/sandbox.sock`);
    expect(JSON.parse(new TextDecoder().decode(vm.hypervisor))).toMatchObject({ vmId: vm.id });
  });

  test("a VM's CID goes to the client with it, as its sandbox process chose it (kata-containers#1106)", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolInProcess(fixture, { number: 1, vmConfig: { ...VM_CONFIG, transport: "vsock" } });
    await using client = new GrpcClient(pool.options.endpoint);
    const vm = await createGrpcClient(CacheService, client).getBaseVM({});
    const { agentAddress } = parseVmRecord(new TextDecoder().decode(vm.hypervisor), "of the answer");
    expect(agentAddress).toEqual({ transport: "vsock", cid: expect.any(Number) });
    expect(readVmRecord(vmPaths(fixture.runDir, vm.id).record)).toMatchObject({ agentAddress });
  });

  test("a claim that runs out of time, and one whose client vanishes, leak nothing", async () => {
    using fixture = sandboxFixture();
    const hold = `${fixture.dir}/hold`;
    writeFileSync(hold, "");
    fixture.script({ holdFile: hold });
    await using pool = new PoolInProcess(fixture, { number: 1 });
    await pool.seen("listening");
    const error = await rejection(poolClient(pool.options.endpoint, 150).getBaseVm(VM_CONFIG, never));
    expect(error).toMatchObject({ code: "deadline-exceeded" });
    expect((error as HearthError).message).toContain("no answer within 150 ms");
    // Until then it may be the one that waits.
    while ((await pool.status()).missesByReason["gave-up"] !== 1);
    const abort = new AbortController();
    const claim = rejection(poolClient(pool.options.endpoint).getBaseVm(VM_CONFIG, abort.signal));
    while ((await pool.status()).waiting < 1);
    abort.abort();
    expect(await claim).toMatchObject({ code: "cancelled" });
    while ((await pool.status()).waiting > 0);
    expect(await pool.status()).toMatchObject({ hits: 0, missesByReason: { "gave-up": 2 } });
    await pool.stop();
    expect(fixture.leftovers()).toEqual([]);
  });

  test("stopping while boots are under way and claims wait leaves nothing", async () => {
    using fixture = sandboxFixture();
    fixture.script({ launch: { "wait-for-agent": "hang" } });
    await using pool = new PoolInProcess(fixture, { number: 3 });
    await pool.seen("step", 5);
    const claim = rejection(poolClient(pool.options.endpoint).getBaseVm(VM_CONFIG, never));
    while ((await pool.status()).waiting < 1);
    await pool.stop();
    expect(await claim).toMatchObject({ code: "unavailable" });
    expect(fixture.leftovers()).toEqual([]);
  });
});

test("systemd is told when the server answers, how full it is, and that it stops", async () => {
  using fixture = sandboxFixture();
  using dir = scratch();
  const notifySocket = dir.path("notify");
  using reader = datagramReceiver(notifySocket);
  await using pool = new PoolInProcess(fixture, { number: 1, notifySocket });
  const next = async () => new TextDecoder().decode((await reader.read()) ?? undefined);
  expect(await next()).toBe(`READY=1\nMAINPID=${process.pid}\nSTATUS=0 of 1 vms ready`);
  expect(await next()).toBe("STATUS=1 of 1 vms ready");
  await pool.stop();
  expect(await next()).toBe("STOPPING=1");
});

describe("status and stop as commands see them", () => {
  test("stop waits until the process is gone", async () => {
    using fixture = sandboxFixture();
    await using pool = new PoolProcess(fixture);
    await pool.seen("ready", 2);
    expect(await stopVmCache(pool.endpoint)).toBe(pool.child.pid);
    expect(await pool.child.exited).toEqual({ kind: "exited", code: 0 });
    expect(fixture.leftovers()).toEqual([]);
  });

  test("nobody there", async () => {
    using fixture = sandboxFixture();
    const error = await rejection(vmCacheStatus(`${fixture.dir}/none.sock`));
    expect(error).toMatchObject({ code: "unavailable", hint: "start one with: hearth vmcache serve" });
    expect(await rejection(stopVmCache(`${fixture.dir}/none.sock`))).toMatchObject({ code: "unavailable" });
  });

  test.each(["SIGTERM", "SIGINT"] as const)("%s ends the server with status 0 and no idle VM", async (signal) => {
    using fixture = sandboxFixture();
    await using pool = new PoolProcess(fixture);
    await pool.seen("ready", 2);
    process.kill(pool.child.pid, signal);
    expect(await pool.child.exited).toEqual({ kind: "exited", code: 0 });
    expect(fixture.leftovers()).toEqual([]);
  });
});

describe("an endpoint that cannot be had", () => {
  test("a second server on the endpoint names the pid of the first", async () => {
    using fixture = sandboxFixture();
    await using first = new PoolProcess(fixture, { number: 1 });
    await first.seen("listening");
    await using second = new PoolInProcess(fixture, { runDir: `${fixture.dir}/other` });
    const error = await rejection(second.served);
    expect(error).toMatchObject({ code: "already-exists" });
    expect((error as HearthError).message).toContain(`the server with pid ${first.child.pid} does`);
    expect((await vmCacheStatus(first.endpoint)).pid).toBe(first.child.pid);
  });

  test("a second server of the run directory, on another endpoint, is refused too", async () => {
    using fixture = sandboxFixture();
    await using first = new PoolProcess(fixture, { number: 1 });
    await first.seen("listening");
    await using second = new PoolInProcess(fixture, { endpoint: `${fixture.dir}/other.sock` });
    expect(((await rejection(second.served)) as HearthError).message).toContain(`pid ${first.child.pid}`);
    expect(existsSync(`${fixture.dir}/other.sock`)).toBe(false);
  });

  test("a first server that is stopped by SIGSTOP is still the first", async () => {
    using fixture = sandboxFixture();
    await using first = new PoolProcess(fixture, { number: 1 });
    await first.seen("listening");
    process.kill(first.child.pid, "SIGSTOP");
    await using second = new PoolInProcess(fixture);
    expect(((await rejection(second.served)) as HearthError).message).toContain(`pid ${first.child.pid}`);
    process.kill(first.child.pid, "SIGCONT");
  });

  test("a stale socket file is replaced", async () => {
    using fixture = sandboxFixture();
    const first = new PoolProcess(fixture, { number: 1 });
    await first.seen("ready");
    first.child.kill(9);
    await first.child.exited;
    expect(existsSync(first.endpoint)).toBe(true);
    await using second = new PoolInProcess(fixture, { number: 1 });
    await second.seen("listening");
    expect((await second.status()).pid).toBe(process.pid);
    await first[Symbol.asyncDispose]();
  });

  test("a program that speaks something else", async () => {
    using fixture = sandboxFixture();
    mkdirSync(fixture.runDir, { mode: 0o700 });
    await using _other = await listenUnix(`${fixture.runDir}/cache.sock`, (stream) => {
      void stream.write(new TextEncoder().encode("220 mail.example.org ESMTP\r\n")).catch(() => {});
    });
    await using pool = new PoolInProcess(fixture);
    const error = await rejection(pool.served);
    expect(error).toMatchObject({ code: "already-exists" });
    expect((error as HearthError).message).toContain("a program that is no pool server answers there");
    expect(fixture.launches()).toEqual([]);
  });

  test("a file that is no socket, a path that is too long, a directory others can write to", async () => {
    using fixture = sandboxFixture();
    mkdirSync(fixture.runDir, { mode: 0o700 });
    writeFileSync(`${fixture.runDir}/file`, "precious");
    await using notSocket = new PoolInProcess(fixture, { endpoint: `${fixture.runDir}/file` });
    expect(await rejection(notSocket.served)).toMatchObject({ code: "already-exists" });
    expect(statSync(`${fixture.runDir}/file`).size).toBe(8);
    await using tooLong = new PoolInProcess(fixture, { endpoint: `/tmp/${"x".repeat(103)}` });
    expect(((await rejection(tooLong.served)) as HearthError).message).toContain("longer than 107 bytes");
    mkdirSync(`${fixture.dir}/open`);
    chmodSync(`${fixture.dir}/open`, 0o777);
    await using shared = new PoolInProcess(fixture, { endpoint: `${fixture.dir}/open/cache.sock` });
    expect(await rejection(shared.served)).toMatchObject({ code: "permission-denied" });
    expect(fixture.launches()).toEqual([]);
  });
});

describe("a server that is killed and started again", () => {
  test("adopts idle VMs without a boot, leaves those in use, and collects what is dead", async () => {
    using fixture = sandboxFixture();
    await using first = new PoolProcess(fixture, { number: 3 });
    await first.seen("ready", 3);
    const vm = await poolClient(first.endpoint).getBaseVm(VM_CONFIG, never);
    const possession = await adopt(vm);
    await first.seen("ready", 4);
    const idle = (await vmCacheStatus(first.endpoint)).idle;
    first.child.kill(9);
    await first.child.exited;
    // One of the idle ones dies while there is no server: its sandbox process is killed, its QEMU goes on.
    const [dead, ...living] = idle;
    if (dead === undefined) throw new Error("no idle vm");
    const owner = identifyProcess(dead.sandboxPid);
    signalProcess(owner, SIGKILL);
    // Until it has gone its VM counts as owned, and is nobody's to collect.
    await processExit(owner);
    const launchesBefore = fixture.launches().length;

    await using second = new PoolInProcess(fixture, { number: 2 });
    await second.seen("adopted", 2);
    const status = await second.status();
    expect(status.idle.map(({ id }) => id).sort()).toEqual(living.map(({ id }) => id).sort());
    expect(status).toMatchObject({ adopted: 2, boots: 0, hits: 0 });
    expect(status.handedOut.map(({ id }) => id)).toEqual([vm.vmId]);
    expect(fixture.launches().length).toBe(launchesBefore);
    expect(isAlive(vm.sandbox)).toBe(true);
    const next = await poolClient(second.options.endpoint).getBaseVm(VM_CONFIG, never);
    expect(living.map(({ id }) => id)).toContain(next.vmId);
    (await adopt(next)).close();
    await second.stop();
    await processExit(next.sandbox);
    possession.close();
    await processExit(vm.sandbox);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("destroys idle VMs of another identity and those over its number", async () => {
    using fixture = sandboxFixture();
    await using first = new PoolProcess(fixture, { number: 2 });
    await first.seen("ready", 2);
    const old = (await vmCacheStatus(first.endpoint)).idle.map(({ id }) => id);
    first.child.kill(9);
    await first.child.exited;
    await using other = new PoolProcess(fixture, { number: 2, vmConfig: { ...VM_CONFIG, guestDigest: "11" } });
    await other.seen("ready", 2);
    const status = await vmCacheStatus(other.endpoint);
    expect(status).toMatchObject({ adopted: 0, boots: 2 });
    for (const id of old) expect(status.idle.map((vm) => vm.id)).not.toContain(id);
    other.child.kill(9);
    await other.child.exited;
    await using third = new PoolInProcess(fixture, { number: 1, vmConfig: { ...VM_CONFIG, guestDigest: "11" } });
    await third.seen("adopted", 1);
    await third.stop();
    expect(fixture.leftovers()).toEqual([]);
  });

  test("an idle VM whose sandbox process is stopped or does not answer is ended, not adopted", async () => {
    using fixture = sandboxFixture();
    await using first = new PoolProcess(fixture, { number: 1 });
    await first.seen("ready", 1);
    const [vm] = (await vmCacheStatus(first.endpoint)).idle;
    if (vm === undefined) throw new Error("no idle vm");
    first.child.kill(9);
    await first.child.exited;
    fixture.script({ rpc: { info: "error" } });
    await using second = new PoolInProcess(fixture, { number: 1 });
    await second.seen("listening");
    fixture.script({});
    await second.seen("ready", 1);
    const status = await second.status();
    expect(status.adopted).toBe(0);
    expect(status.idle.map(({ id }) => id)).not.toContain(vm.id);
    await second.stop();
    expect(fixture.leftovers()).toEqual([]);
  });

  test("VMs that were booting when it was killed do not stay for ever", async () => {
    using fixture = sandboxFixture();
    const hold = `${fixture.dir}/hold`;
    writeFileSync(hold, "");
    fixture.script({ holdFile: hold });
    await using first = new PoolProcess(fixture, { number: 1 });
    await first.seen("step", 1);
    first.child.kill(9);
    await first.child.exited;
    expect(fixture.leftovers()).not.toEqual([]);
    unlinkSync(hold);
    for (let attempt = 0; attempt < 400 && fixture.leftovers().length > 0; attempt++) await Bun.sleep(10);
    expect(fixture.leftovers()).toEqual([]);
  });
});

test("Ctrl-C in the server's terminal never reaches a VM: each sandbox process has a session of its own", async () => {
  using fixture = sandboxFixture();
  await using pool = new PoolProcess(fixture, { number: 1 });
  await pool.seen("ready");
  const vm = await poolClient(pool.endpoint).getBaseVm(VM_CONFIG, never);
  const possession = await adopt(vm);
  // What a terminal does: the signal goes to every process of the group.
  const sandbox = processStat(vm.sandbox.pid);
  expect(sandbox?.session).toBe(vm.sandbox.pid);
  expect(sandbox?.processGroup).not.toBe(processStat(pool.child.pid)?.processGroup);
  process.kill(pool.child.pid, "SIGINT");
  await pool.child.exited;
  expect(isAlive(vm.sandbox)).toBe(true);
  possession.close();
  await processExit(vm.sandbox);
  expect(fixture.leftovers()).toEqual([]);
});
