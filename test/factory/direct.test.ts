import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { DeadlineError, HearthError } from "../../src/errors.ts";
import { createDirectFactory } from "../../src/factory/direct.ts";
import type { LaunchOptions } from "../../src/factory/launch.ts";
import { SandboxService, VmState } from "../../src/gen/sandbox_pb.ts";
import { vmPaths } from "../../src/paths.ts";
import { TtrpcClient } from "../../src/rpc/ttrpc/client.ts";
import { createTtrpcClient } from "../../src/rpc/ttrpc/descriptors.ts";
import { isAlive, processExit, processStat } from "../../src/sys/process-identity.ts";
import { connectUnix } from "../../src/sys/unix-socket.ts";
import { readVmRecord } from "../../src/vm/vm-record.ts";
import { rejection } from "../harness/rejection.ts";
import { type SandboxFixture, sandboxFixture, VM_CONFIG } from "../harness/sandbox-fixture.ts";

function direct(fixture: SandboxFixture, options: Partial<LaunchOptions> = {}) {
  return createDirectFactory({
    runDir: fixture.runDir,
    mode: "leased",
    leaseMs: 20_000,
    logLevel: "info",
    argv: fixture.argv,
    ...options,
  });
}

const noSignal = new AbortController().signal;

describe("direct factory", () => {
  test("a leased VM that can be adopted, in a process of its own session", async () => {
    using fixture = sandboxFixture();
    const steps: string[] = [];
    const factory = direct(fixture, { onStep: (_vm, step) => steps.push(step) });
    const vm = await factory.getBaseVm(VM_CONFIG, noSignal);
    expect(vm).toMatchObject({ vcpus: 1, memoryMib: 256, source: "direct" });
    expect(vm.token).toMatch(/^[0-9a-f]{64}$/);
    expect(vm.sandboxSocket).toBe(vmPaths(fixture.runDir, vm.vmId).sandboxSocket);
    expect(steps).toContain("wait-for-agent");
    expect(isAlive(vm.sandbox)).toBe(true);
    expect(processStat(vm.sandbox.pid)?.session).toBe(vm.sandbox.pid);
    await using client = new TtrpcClient(await connectUnix(vm.sandboxSocket));
    const sandbox = createTtrpcClient(SandboxService, client);
    expect((await sandbox.info({})).state).toBe(VmState.LEASED);
    expect(await rejection(sandbox.adopt({ token: "x".repeat(64) }))).toMatchObject({ code: "permission-denied" });
    await sandbox.adopt({ token: vm.token });
    await sandbox.destroy({});
    await processExit(vm.sandbox);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("the environment is constructed: nothing that changes what the program loads", async () => {
    using fixture = sandboxFixture();
    process.env["BUN_CONFIG_VERBOSE_FETCH"] = "curl";
    process.env["NODE_OPTIONS"] = "--title=x";
    try {
      const vm = await direct(fixture).getBaseVm(VM_CONFIG, noSignal);
      const names = readFileSync(`/proc/${vm.sandbox.pid}/environ`, "utf8")
        .split("\0")
        .map((entry) => entry.split("=")[0] ?? "");
      expect(names.filter((name) => /^(BUN|NODE|LD)_/.test(name))).toEqual([]);
      process.kill(vm.sandbox.pid, "SIGTERM");
      await processExit(vm.sandbox);
    } finally {
      delete process.env["BUN_CONFIG_VERBOSE_FETCH"];
      delete process.env["NODE_OPTIONS"];
    }
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a lease that nobody takes up ends the VM", async () => {
    using fixture = sandboxFixture();
    const vm = await direct(fixture, { leaseMs: 50 }).getBaseVm(VM_CONFIG, noSignal);
    await processExit(vm.sandbox);
    expect(fixture.leftovers()).toEqual([]);
  });
});

const STEPS = ["make-directory", "launch-qemu", "wait-for-agent", "rehearse", "listen"];

describe("a launch that fails leaves nothing behind", () => {
  test.each(STEPS)("an error at %s", async (step) => {
    using fixture = sandboxFixture();
    fixture.script({ launch: { [step]: "error" } });
    const error = await rejection(direct(fixture).getBaseVm(VM_CONFIG, noSignal));
    expect(error).toMatchObject({ code: "unavailable", hint: "change the script", facts: { step } });
    expect((error as HearthError).message).toContain(`${step}: scripted failure`);
    expect(fixture.leftovers()).toEqual([]);
  });

  test.each(STEPS)("the process killed at %s, its VM still running", async (step) => {
    using fixture = sandboxFixture();
    fixture.script({ launch: { [step]: "die" } });
    const error = await rejection(direct(fixture).getBaseVm(VM_CONFIG, noSignal));
    expect((error as HearthError).message).toContain(`process ended at ${step} with signal SIGKILL`);
    expect(fixture.leftovers()).toEqual([]);
  });

  test.each([
    ["hang", "wait for wait-for-agent of sandbox"],
    ["close", "process ended at wait-for-agent"],
    ["garbage", "unexpected"],
    ["stderr", "wait-for-agent: something to read"],
  ] as const)("%s", async (misbehaviour, message) => {
    using fixture = sandboxFixture();
    fixture.script({ launch: { "wait-for-agent": misbehaviour } });
    const config = { ...VM_CONFIG, bootTimeoutMs: misbehaviour === "hang" ? -4000 : 20_000 };
    const error = await rejection(direct(fixture).getBaseVm(config, noSignal));
    expect(error).toBeInstanceOf(misbehaviour === "hang" ? DeadlineError : HearthError);
    expect((error as HearthError).message).toContain(message);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("cancelling ends what was started and rejects with the reason", async () => {
    using fixture = sandboxFixture();
    fixture.script({ launch: { "launch-qemu": "hang" } });
    const abort = new AbortController();
    const reason = new HearthError("cancelled", "enough");
    let qemu: { pid: number; startTime: number } | undefined;
    const factory = direct(fixture, {
      onStep: (vmId, step) => {
        if (step !== "launch-qemu") return;
        qemu = readVmRecord(vmPaths(fixture.runDir, vmId).record)?.processes[0];
        abort.abort(reason);
      },
    });
    expect(await rejection(factory.getBaseVm(VM_CONFIG, abort.signal))).toBe(reason);
    expect(qemu).toBeDefined();
    expect(qemu !== undefined && isAlive(qemu)).toBe(false);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a program that is not there, or is none of ours", async () => {
    using fixture = sandboxFixture();
    const missing = direct(fixture, { argv: ["/nonexistent/hearth", "sandbox"] });
    expect(await rejection(missing.getBaseVm(VM_CONFIG, noSignal))).toMatchObject({ code: "not-found" });
    const other = direct(fixture, { argv: ["/bin/true"] });
    const error = await rejection(other.getBaseVm(VM_CONFIG, noSignal));
    expect((error as HearthError).message).toContain("process ended at first report with exit status 0");
    expect(fixture.leftovers()).toEqual([]);
  });
});
