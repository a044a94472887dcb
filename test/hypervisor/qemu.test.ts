/** A real QEMU with a kernel that halts: start, failure, supervision, adoption, plugging, saving; no guest takes part. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { BootOptions, Hypervisor } from "../../src/hypervisor/interface.ts";
import { adoptQemu, launchQemu } from "../../src/hypervisor/qemu/launch.ts";
import { QmpClient } from "../../src/hypervisor/qemu/qmp/client.ts";
import { ROOT_PORTS } from "../../src/hypervisor/qemu/slots.ts";
import { GUEST_LOG_BYTES_MAX } from "../../src/limits.ts";
import { createLog } from "../../src/log.ts";
import { pipe } from "../../src/sys/fd.ts";
import { isAlive, processStat, signalProcess } from "../../src/sys/process-identity.ts";
import { SIGKILL } from "../../src/sys/signals.ts";
import { haltingKernel } from "../harness/halting-kernel.ts";
import { rejection } from "../harness/rejection.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";

let place: Scratch;
let stack: AsyncDisposableStack;
beforeEach(() => {
  place = scratch();
  stack = new AsyncDisposableStack();
  stack.use(place);
  writeFileSync(place.path("kernel"), haltingKernel());
});
afterEach(() => stack.disposeAsync());

function options(change: Partial<BootOptions> = {}): BootOptions {
  return {
    vmId: "test",
    qemuPath: "qemu-system-x86_64",
    accel: "tcg",
    machine: "q35",
    kernel: place.path("kernel"),
    initrd: "",
    image: "",
    kernelParams: [],
    vcpus: 1,
    maxVcpus: 4,
    memoryMib: 128,
    maxMemoryMib: 1024,
    sharedMemory: false,
    qmpSocket: place.path("qmp.sock"),
    agentSocket: place.path("agent.sock"),
    consoleLog: place.path("console.log"),
    qemuLog: place.path("qemu.log"),
    devices: [],
    seccomp: true,
    ...change,
  };
}

async function launch(change: Partial<BootOptions> = {}) {
  return stack.use(await launchQemu(options(change), { signal: AbortSignal.timeout(30_000) }));
}

/** A program that stands for QEMU. */
function fakeQemu(script: string): string {
  const path = place.path("fake-qemu");
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}

describe("launch", () => {
  test("runs, in a session of its own, with private sockets, and is gone after", async () => {
    const qemu = await launch();
    expect(await qemu.runState()).toBe("running");
    expect([qemu.vcpus, qemu.memoryMib]).toEqual([1, 128]);
    const stat = processStat(qemu.process.pid);
    expect(stat?.session).toBe(qemu.process.pid);
    expect(readlinkSync(`/proc/${qemu.process.pid}/fd/0`)).toBe("/dev/null");
    await qemu[Symbol.asyncDispose]();
    expect(isAlive(qemu.process)).toBe(false);
    expect(await qemu.runState()).toBe("ended");
    expect(await qemu.ended).toMatchObject({ exitCode: null, signal: "SIGKILL" });
  });

  test.each(["q35", "pc"] as const)("%s starts without seccomp too", async (machine) => {
    const qemu = await launch({ machine, seccomp: false });
    expect(await qemu.runState()).toBe("running");
  });

  test("QEMU gets no descriptor but its own", async () => {
    const before = pipe();
    stack.use(before.readEnd);
    stack.use(before.writeEnd);
    const qemu = await launch();
    const theirs = readdirSync(`/proc/${qemu.process.pid}/fd`).map((fd) => {
      try {
        return readlinkSync(`/proc/${qemu.process.pid}/fd/${fd}`);
      } catch {
        return "";
      }
    });
    const ours = readlinkSync(`/proc/self/fd/${before.readEnd.fd}`);
    expect(theirs).not.toContain(ours);
  });

  test("what QEMU said is in the error, and no process is left", async () => {
    const error = await rejection(launch({ kernel: place.path("no-such-kernel") }));
    expect(error).toMatchObject({ code: "internal" });
    expect(String(error)).toContain("exit status 1");
    expect(String(error)).toContain("no-such-kernel");
    expect(readFileSync(place.path("qemu.log"), "utf8")).toContain("no-such-kernel");
  });

  test("a missing QEMU is not-found with a hint", async () => {
    const error = await rejection(launch({ qemuPath: "/nonexistent/qemu" }));
    expect(error).toMatchObject({ code: "not-found", hint: expect.stringContaining("install qemu-system-x86") });
    expect(String(error)).toContain("/nonexistent/qemu");
  });

  test("a QEMU that is too old says its version, whatever it thinks of our options", async () => {
    const old =
      'case "$1" in --version) echo "QEMU emulator version 4.2.1 (Debian)";; *) echo "unknown" >&2; exit 1;; esac';
    const error = await rejection(launch({ qemuPath: fakeQemu(old) }));
    expect(error).toMatchObject({ code: "failed-precondition" });
    expect(String(error)).toContain("version 4.2.1 is older than 6.2.0");
  });

  test("a QEMU that is old, but not too old, is one warning", async () => {
    const lines = place.path("log");
    writeFileSync(lines, "");
    const program = join(import.meta.dir, "../fixtures/old-qemu.ts");
    const script = `exec ${process.execPath} ${program}`;
    const fd = openSync(lines, "a");
    stack.defer(() => closeSync(fd));
    const log = createLog({ level: "warn", format: "text", fd });
    stack.use(await launchQemu(options({ qemuPath: fakeQemu(script) }), { log, signal: AbortSignal.timeout(10_000) }));
    expect(readFileSync(lines, "utf8").trim().split("\n")).toEqual([
      expect.stringContaining("qemu 7.0.0 is older than 7.2.0, the oldest that is tested"),
    ]);
  });

  test("something that is no QEMU ends with what it said", async () => {
    const error = await rejection(launch({ qemuPath: fakeQemu("echo no such machine >&2; exit 3") }));
    expect(String(error)).toMatch(/does not say its version|exit status 3: no such machine/);
  });

  test("one that never answers is ended at the signal", async () => {
    const stop = new AbortController();
    const pidFile = place.path("pid");
    const qemuPath = fakeQemu(`echo $$ >${pidFile}; exec sleep 1000`);
    const launching = rejection(launchQemu(options({ qemuPath }), { signal: stop.signal }));
    while (!existsSync(pidFile) || readFileSync(pidFile, "utf8") === "")
      await new Promise((next) => setImmediate(next));
    stop.abort(new Error("given up"));
    expect(String(await launching)).toContain("given up");
    expect(processStat(Number(readFileSync(pidFile, "utf8")))).toBeUndefined();
  });

  test("socket paths that are taken are an error, not somebody else's loss", async () => {
    writeFileSync(place.path("qmp.sock"), "precious");
    expect(await rejection(launch())).toMatchObject({ code: "already-exists" });
    expect(readFileSync(place.path("qmp.sock"), "utf8")).toBe("precious");
  });
});

describe("the end of QEMU", () => {
  test("is known at once, and calls say how it was", async () => {
    const qemu = await launch();
    const waiting = rejection(qemu.agentReady());
    signalProcess(qemu.process, SIGKILL);
    const calls = [rejection(qemu.pause()), waiting];
    expect((await qemu.ended).signal).toBe("SIGKILL");
    for (const call of calls) expect(String(await call)).toContain("qemu has ended: signal SIGKILL");
    expect(String(await rejection(qemu.resume()))).toContain("signal SIGKILL");
    expect(await qemu.runState()).toBe("ended");
  });

  test("by itself comes with its exit status", async () => {
    const qemu = await launch();
    qemu.release();
    await using qmp = await QmpClient.connect(place.path("qmp.sock"), { timeoutMs: 10_000 });
    await qmp.run("quit", {});
    expect(await qemu.ended).toMatchObject({ exitCode: 0, signal: null });
  });

  test("a guest that floods the console fills no disk", async () => {
    const flood = `head -c ${3 * GUEST_LOG_BYTES_MAX} /dev/zero | tr '\\0' 'x'; echo; echo last words; exit 4`;
    await rejection(launch({ qemuPath: fakeQemu(flood) }));
    const log = readFileSync(place.path("console.log"), "utf8");
    expect(log.length).toBeLessThanOrEqual(GUEST_LOG_BYTES_MAX);
    expect(log).toContain("last words");
  });
});

describe("run state", () => {
  test("pause and resume, twice each", async () => {
    const qemu = await launch();
    await qemu.pause();
    await qemu.pause();
    expect(await qemu.runState()).toBe("paused");
    await qemu.resume();
    await qemu.resume();
    expect(await qemu.runState()).toBe("running");
  });
});

describe("adoption", () => {
  test("a living QEMU is taken over with its size, slots and devices", async () => {
    const first = await launch();
    await first.addVcpus(2);
    await first.addMemory(256);
    writeFileSync(place.path("disk"), new Uint8Array(1024 * 1024));
    await first.addDevice({ kind: "block", id: "data", path: place.path("disk"), readOnly: true, format: "raw" });
    first.release();
    const qemu = await adopt(first);
    expect([qemu.vcpus, qemu.memoryMib]).toEqual([3, 384]);
    expect(await qemu.runState()).toBe("running");
    // The next free slot and the next free vCPU, not those that are taken.
    const again = { kind: "block", id: "again", path: place.path("disk"), readOnly: true, format: "raw" } as const;
    expect((await qemu.addDevice(again)).pciPath).toBe("11/00");
    expect(await qemu.addVcpus(1)).toEqual(["cpu-0-0-3-0"]);
    await qemu[Symbol.asyncDispose]();
    expect(isAlive(first.process)).toBe(false);
  });

  test("the first owner that still holds the monitor keeps it: a deadline", async () => {
    const first = await launch();
    const second = QmpClient.connect(place.path("qmp.sock"), { timeoutMs: 100 });
    expect(String(await rejection(second))).toContain("qmp greeting");
    expect(await first.runState()).toBe("running");
  });

  test("one that has gone is not-found", async () => {
    const first = await launch();
    await first[Symbol.asyncDispose]();
    expect(await rejection(adopt(first))).toMatchObject({ code: "not-found" });
  });

  async function adopt(first: Hypervisor) {
    const { qmpSocket, qemuLog, consoleLog, machine, sharedMemory } = options();
    const identity = { process: first.process, qmpSocket, qemuLog, consoleLog, machine, sharedMemory };
    return stack.use(await adoptQemu(identity, { signal: AbortSignal.timeout(10_000) }));
  }
});

describe("plugging", () => {
  test("vCPUs up to the maximum, then an error and nothing added", async () => {
    const qemu = await launch();
    expect(await qemu.addVcpus(0)).toEqual([]);
    expect(await qemu.addVcpus(2)).toEqual(["cpu-0-0-1-0", "cpu-0-0-2-0"]);
    expect(await rejection(qemu.addVcpus(2))).toMatchObject({ code: "resource-exhausted" });
    expect(qemu.vcpus).toBe(3);
    await qemu.addVcpus(1);
    expect(qemu.vcpus).toBe(4);
    expect(await rejection(qemu.addVcpus(-1))).toMatchObject({ code: "invalid-argument" });
  });

  test("vCPUs into a VM that has a thread for each", async () => {
    const qemu = await launch({ vcpus: 2 });
    await qemu.addVcpus(2);
    expect(qemu.vcpus).toBe(4);
    expect(await qemu.runState()).toBe("running");
  });

  test.each([true, false])("memory (shared %p) in blocks, as much as there is room for", async (sharedMemory) => {
    const qemu = await launch({ sharedMemory });
    expect((await qemu.addMemory(256)).id).toBe("memory0");
    expect((await qemu.addMemory(128)).id).toBe("memory1");
    expect(qemu.memoryMib).toBe(512);
    expect(await rejection(qemu.addMemory(100))).toMatchObject({ code: "invalid-argument" });
    expect(await rejection(qemu.addMemory(2048))).toMatchObject({ code: "failed-precondition" });
    // The failed one left no backend behind: its name is free.
    expect((await qemu.addMemory(128)).id).toBe("memory2");
    expect(qemu.memoryMib).toBe(640);
  });

  test("every slot once; a device that cannot be made gives its slot back", async () => {
    const qemu = await launch();
    writeFileSync(place.path("disk"), new Uint8Array(1024 * 1024));
    const disk = (id: string) =>
      ({ kind: "block", id, path: place.path("disk"), readOnly: true, format: "raw" }) as const;
    expect(await rejection(qemu.addDevice({ ...disk("x"), path: place.path("none") }))).toMatchObject({
      code: "not-found",
    });
    expect(await rejection(qemu.addDevice({ ...disk("x"), format: "qcow2" }))).toMatchObject({
      code: "failed-precondition",
    });
    for (let index = 0; index < ROOT_PORTS; index++) await qemu.addDevice(disk(`d${index}`));
    expect(await rejection(qemu.addDevice(disk("more")))).toMatchObject({ code: "resource-exhausted" });
    expect(await rejection(qemu.addDevice(disk("d0")))).toMatchObject({ code: "already-exists" });
  });

  test("what cannot be: 9p, virtio-fs without shared memory, an unknown id", async () => {
    const qemu = await launch();
    const nineP = { kind: "shared-directory-9p", tag: "t", path: place.dir, readOnly: false } as const;
    expect(await rejection(qemu.addDevice(nineP))).toMatchObject({ code: "unimplemented" });
    const virtioFs = { kind: "shared-directory-virtio-fs", tag: "t", socketPath: place.path("s") } as const;
    expect(await rejection(qemu.addDevice(virtioFs))).toMatchObject({ code: "failed-precondition" });
    expect(await rejection(qemu.removeDevice("nothing"))).toMatchObject({ code: "not-found" });
  });
});

describe("save and restore", () => {
  test("with all memory: the restored VM is paused, then runs", async () => {
    const first = await launch();
    const statePath = place.path("state");
    expect(await rejection(first.save({ statePath, ignoreShared: false }))).toMatchObject({
      code: "failed-precondition",
    });
    await first.pause();
    await first.save({ statePath, ignoreShared: false });
    expect(await first.runState()).toBe("paused");
    await first.resume();
    expect(await first.runState()).toBe("running");
    await first[Symbol.asyncDispose]();
    const qemu = await launch({ ...fresh(), restore: { statePath, ignoreShared: false } });
    expect(await qemu.runState()).toBe("paused");
    await qemu.resume();
    expect(await qemu.runState()).toBe("running");
  });

  test("with memory left in its file: small, and clones leave the file as it was", async () => {
    const memory = place.path("mem");
    const writer = await launch({ memoryFile: { path: memory, access: "shared" } });
    await writer.pause();
    const statePath = place.path("state");
    await writer.save({ statePath, ignoreShared: true });
    expect(readFileSync(statePath).length).toBeLessThan(2 * 1024 * 1024);
    await writer[Symbol.asyncDispose]();
    const before = Bun.hash(readFileSync(memory));
    const clone = await launch({
      ...fresh(),
      memoryFile: { path: memory, access: "copy-on-write" },
      restore: { statePath, ignoreShared: true },
    });
    await clone.resume();
    expect(await clone.runState()).toBe("running");
    await clone[Symbol.asyncDispose]();
    expect(Bun.hash(readFileSync(memory))).toBe(before);
  });

  test("a state that is none ends QEMU, and the error says why", async () => {
    const statePath = place.path("state");
    writeFileSync(statePath, "not a state");
    const error = await rejection(launch({ restore: { statePath, ignoreShared: false } }));
    expect(String(error)).toContain("Not a migration stream");
  });

  test("a state that cannot be written leaves no file and the VM whole", async () => {
    const qemu = await launch();
    await qemu.pause();
    const error = await rejection(qemu.save({ statePath: "/dev/full/x", ignoreShared: false }));
    expect(String(error)).toContain("/dev/full/x");
    await qemu.resume();
    expect(await qemu.runState()).toBe("running");
  });

  function fresh(): Partial<BootOptions> {
    return { qmpSocket: place.path("qmp2.sock"), agentSocket: place.path("agent2.sock") };
  }
});
