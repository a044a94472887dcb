/** Making templates, cloning of them, and what is done without one; over scripted sandbox processes. */
import { describe, expect, test } from "bun:test";
import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { HearthError } from "../../src/errors.ts";
import { type BuildOptions, destroyTemplates, ensureTemplate } from "../../src/factory/build-template.ts";
import { createFactory } from "../../src/factory/factory.ts";
import { createPoolBase, TemplateMaker } from "../../src/factory/pool-base.ts";
import { createTemplateFactory } from "../../src/factory/template.ts";
import { type Log, type LogFields, silentLog } from "../../src/log.ts";
import { tryLock } from "../../src/sys/lock.ts";
import { processExit } from "../../src/sys/process-identity.ts";
import { findTemplate, listTemplates, makeHalf, TemplateError } from "../../src/vm/template-store.ts";
import { identityDigest } from "../../src/vm/vm-config.ts";
import { rejection } from "../harness/rejection.ts";
import { type SandboxFixture, sandboxFixture, VM_CONFIG } from "../harness/sandbox-fixture.ts";

const never = new AbortController().signal;
const OTHER_SHAPE = { ...VM_CONFIG, vcpus: 2 };

function building(fixture: SandboxFixture, options: Partial<BuildOptions> = {}): BuildOptions {
  return {
    templateDir: join(fixture.runDir, "template"),
    runDir: fixture.runDir,
    logLevel: "info",
    argv: fixture.argv,
    ...options,
  };
}

function launching(fixture: SandboxFixture, log: Log = silentLog) {
  return { runDir: fixture.runDir, leaseMs: 20_000, logLevel: "info", argv: fixture.argv, log } as const;
}

async function end(vm: { readonly sandbox: { readonly pid: number; readonly startTime: number } }): Promise<void> {
  process.kill(vm.sandbox.pid, "SIGTERM");
  await processExit(vm.sandbox);
}

function warnings(): { readonly list: LogFields[]; readonly log: Log } {
  const list: LogFields[] = [];
  return { list, log: { ...silentLog, warn: (_event, fields = {}) => void list.push(fields), with: () => silentLog } };
}

describe("making a template", () => {
  test("once for each identity; anew only when it is wanted", async () => {
    using fixture = sandboxFixture();
    const options = building(fixture);
    const { files, built } = await ensureTemplate(options, VM_CONFIG, never);
    expect(built).toBe(true);
    expect(findTemplate(options.templateDir, VM_CONFIG).files).toEqual(files);
    expect((await ensureTemplate(options, VM_CONFIG, never)).built).toBe(false);
    expect((await ensureTemplate(options, OTHER_SHAPE, never)).built).toBe(true);
    expect((await ensureTemplate({ ...options, force: true }, VM_CONFIG, never)).built).toBe(true);
    expect(fixture.modes()).toEqual(["capture", "capture", "capture"]);
    expect(listTemplates(options.templateDir).map(({ state }) => state)).toEqual(["ready", "ready"]);
    expect(statSync(options.templateDir).mode & 0o777).toBe(0o700);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("two who want it at once: one makes it, the other has it", async () => {
    using fixture = sandboxFixture();
    const options = building(fixture);
    const both = await Promise.all([1, 2].map(() => ensureTemplate(options, VM_CONFIG, never)));
    expect(both.map(({ built }) => built).sort()).toEqual([false, true]);
    expect(fixture.modes()).toEqual(["capture"]);
  });

  test("removes those of another hearth or guest, and keeps those of other shapes", async () => {
    using fixture = sandboxFixture();
    const options = building(fixture);
    for (const config of [
      { ...VM_CONFIG, hearthVersion: "0.0.9" },
      { ...VM_CONFIG, guestDigest: "old" },
      OTHER_SHAPE,
    ]) {
      rmSync(options.templateDir, { recursive: true, force: true });
      await ensureTemplate(options, config, never);
      await ensureTemplate(options, VM_CONFIG, never);
      const left = listTemplates(options.templateDir).map(({ identity }) => identity);
      const expected = config === OTHER_SHAPE ? [OTHER_SHAPE, VM_CONFIG] : [VM_CONFIG];
      expect(left).toEqual(expected.map(identityDigest).sort());
    }
  });

  test.each(["error", "die", "stderr", "garbage"] as const)(
    "a sandbox process that does %s leaves nothing",
    async (how) => {
      using fixture = sandboxFixture();
      const options = building(fixture);
      await ensureTemplate(options, OTHER_SHAPE, never);
      fixture.script({ launch: { rehearse: how } });
      expect(await rejection(ensureTemplate(options, VM_CONFIG, never))).toBeInstanceOf(HearthError);
      expect(listTemplates(options.templateDir).map(({ identity }) => identity)).toEqual([identityDigest(OTHER_SHAPE)]);
      expect(fixture.leftovers()).toEqual([]);
    },
  );

  test("a caller that gives up leaves nothing", async () => {
    using fixture = sandboxFixture();
    const options = building(fixture);
    fixture.script({ launch: { rehearse: "hang" } });
    const stop = new AbortController();
    const reason = new HearthError("cancelled", "enough");
    const onStep = (_vm: string, step: string) => step === "rehearse" && stop.abort(reason);
    expect(await rejection(ensureTemplate({ ...options, onStep }, VM_CONFIG, stop.signal))).toBe(reason);
    expect(listTemplates(options.templateDir)).toEqual([]);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("waits for a living maker, as long as the caller does", async () => {
    using fixture = sandboxFixture();
    const options = building(fixture);
    mkdirSync(options.templateDir, { recursive: true, mode: 0o700 });
    using _held = tryLock(join(options.templateDir, "lock"));
    for (const work of [
      ensureTemplate(options, VM_CONFIG, AbortSignal.timeout(50)),
      destroyTemplates(options, AbortSignal.timeout(50)),
    ]) {
      expect(await rejection(work)).toMatchObject({ name: "TimeoutError" });
    }
    expect(fixture.modes()).toEqual([]);
  });

  test("what killed makers and removers left goes with the next one, whichever it is", async () => {
    using fixture = sandboxFixture();
    const options = building(fixture);
    for (const work of [() => ensureTemplate(options, VM_CONFIG, never), () => destroyTemplates(options, never)]) {
      mkdirSync(options.templateDir, { recursive: true, mode: 0o700 });
      writeFileSync(makeHalf(options.templateDir).memory, "begun");
      mkdirSync(join(fixture.runDir, "vm", "orphan"), { recursive: true });
      await work();
      expect(readdirSync(options.templateDir).filter((name) => name.startsWith("."))).toEqual([]);
      expect(readdirSync(join(fixture.runDir, "vm"))).toEqual([]);
    }
    expect(listTemplates(options.templateDir)).toEqual([]);
    expect(await destroyTemplates({ ...options, templateDir: join(fixture.dir, "none") }, never)).toEqual([]);
  });

  test("a directory that others may write to is refused", async () => {
    using fixture = sandboxFixture();
    const options = building(fixture, { templateDir: join(fixture.dir, "open") });
    mkdirSync(options.templateDir, { mode: 0o777 });
    await Bun.$`chmod 0777 ${options.templateDir}`.quiet();
    expect(await rejection(ensureTemplate(options, VM_CONFIG, never))).toMatchObject({ code: "permission-denied" });
  });
});

describe("cloning", () => {
  test("without a template fails, and starts no process", async () => {
    using fixture = sandboxFixture();
    const factory = createTemplateFactory(join(fixture.runDir, "template"), { ...launching(fixture), mode: "leased" });
    const error = await rejection(factory.getBaseVm(VM_CONFIG, never));
    expect(error).toBeInstanceOf(TemplateError);
    expect(error).toMatchObject({ problem: "missing" });
    expect(fixture.modes()).toEqual([]);
  });

  test("a clone that does not come up marks the template; one whose caller gave up does not", async () => {
    using fixture = sandboxFixture();
    const options = building(fixture);
    await ensureTemplate(options, VM_CONFIG, never);
    const stop = new AbortController();
    const onStep = (_vm: string, step: string) => step === "wait-for-agent" && stop.abort(new Error("enough"));
    fixture.script({ launch: { "wait-for-agent": "hang" } });
    const impatient = createTemplateFactory(options.templateDir, { ...launching(fixture), mode: "leased", onStep });
    expect(String(await rejection(impatient.getBaseVm(VM_CONFIG, stop.signal)))).toContain("enough");
    expect(listTemplates(options.templateDir)).toMatchObject([{ state: "ready" }]);

    const factory = createTemplateFactory(options.templateDir, { ...launching(fixture), mode: "leased" });
    for (const [step, state] of [
      ["make-directory", "ready"],
      ["wait-for-agent", "broken"],
    ] as const) {
      fixture.script({ launch: { [step]: "error" } });
      expect(String(await rejection(factory.getBaseVm(VM_CONFIG, never)))).toContain(`${step}: scripted failure`);
      expect(listTemplates(options.templateDir)).toMatchObject([{ state }]);
    }
    expect(listTemplates(options.templateDir)[0]?.reason).toContain("scripted failure");
    expect(await rejection(factory.getBaseVm(VM_CONFIG, never))).toMatchObject({ problem: "broken" });
    expect(fixture.leftovers()).toEqual([]);
    // Made anew it is good again.
    fixture.script({});
    expect((await ensureTemplate(options, VM_CONFIG, never)).built).toBe(true);
    await end(await factory.getBaseVm(VM_CONFIG, never));
    expect(fixture.modes().at(-1)).toBe("leased clone");
  });
});

describe("the runtime's factory", () => {
  const factoryOptions = (fixture: SandboxFixture, log: Log) => ({
    ...launching(fixture, log),
    pool: undefined,
    templateDir: join(fixture.runDir, "template"),
  });

  test("clones when it can, and boots with one warning when it cannot; it never makes a template", async () => {
    using fixture = sandboxFixture();
    const { list, log } = warnings();
    const factory = createFactory(factoryOptions(fixture, log));
    const booted = await factory.getVm(VM_CONFIG, never);
    expect([booted.source, list.map(({ reason }) => reason)]).toEqual(["direct", ["missing"]]);
    await end(booted);
    await ensureTemplate(building(fixture), VM_CONFIG, never);
    const clone = await factory.getVm(VM_CONFIG, never);
    expect([clone.source, list.length]).toEqual(["template", 1]);
    await end(clone);
    expect(fixture.modes()).toEqual(["leased", "capture", "leased clone"]);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a clone that cannot be adopted costs a warning and its template, and the container gets a booted VM", async () => {
    using fixture = sandboxFixture();
    const options = building(fixture);
    await ensureTemplate(options, VM_CONFIG, never);
    const { list, log } = warnings();
    const { vm, adopted } = await createFactory(factoryOptions(fixture, log)).getAdopted(
      VM_CONFIG,
      never,
      async (base) => {
        await end(base);
        if (base.source === "template") throw new HearthError("unavailable", "repair: no answer");
        return "adopted";
      },
    );
    expect([vm.source, adopted, list.map(({ reason }) => reason)]).toEqual(["direct", "adopted", ["not-adoptable"]]);
    expect(listTemplates(options.templateDir)).toMatchObject([{ state: "broken", reason: "repair: no answer" }]);
  });

  test("an adoption that fails with a booted VM too is no fault of the template's", async () => {
    using fixture = sandboxFixture();
    const options = building(fixture);
    await ensureTemplate(options, VM_CONFIG, never);
    const adopting = createFactory(factoryOptions(fixture, silentLog)).getAdopted(VM_CONFIG, never, async (base) => {
      await end(base);
      throw new HearthError("not-found", "move-to-cgroup: no such cgroup");
    });
    expect(await rejection(adopting)).toMatchObject({ code: "not-found" });
    expect(fixture.modes()).toEqual(["capture", "leased clone", "leased"]);
    expect(listTemplates(options.templateDir)).toMatchObject([{ state: "ready" }]);
  });
});

describe("the pool's base", () => {
  test("makes the template once for all who wait, then clones", async () => {
    using fixture = sandboxFixture();
    const base = createPoolBase(new TemplateMaker(building(fixture)), launching(fixture));
    const vms = await Promise.all([1, 2, 3].map(() => base.getBaseVm(VM_CONFIG, never)));
    expect(vms.map(({ source }) => source)).toEqual(["template", "template", "template"]);
    expect(fixture.modes()).toEqual(["capture", "idle clone", "idle clone", "idle clone"]);
    await Promise.all(vms.map(end));
  });

  test("a template that cannot be made costs one try in a while, and its VMs are booted", async () => {
    using fixture = sandboxFixture();
    using broken = sandboxFixture();
    broken.script({ launch: { rehearse: "error" } });
    for (const [retryMs, tries] of [
      [60_000, 1],
      [0, 3],
    ] as const) {
      const before = broken.modes().length;
      const base = createPoolBase(new TemplateMaker(building(broken), retryMs), launching(fixture));
      for (let index = 0; index < 3; index++) {
        const vm = await base.getBaseVm(VM_CONFIG, never);
        expect(vm.source).toBe("direct");
        await end(vm);
      }
      expect(broken.modes().length - before).toBe(tries);
    }
    expect(broken.leftovers()).toEqual([]);
  });

  test("one that has become broken is made anew", async () => {
    using fixture = sandboxFixture();
    const options = building(fixture);
    const { files } = await ensureTemplate(options, VM_CONFIG, never);
    writeFileSync(files.state, "");
    const vm = await createPoolBase(new TemplateMaker(options), launching(fixture)).getBaseVm(VM_CONFIG, never);
    expect(vm.source).toBe("template");
    expect(fixture.modes()).toEqual(["capture", "capture", "idle clone"]);
    await end(vm);
  });

  test("the end of the pool ends the making", async () => {
    using fixture = sandboxFixture();
    fixture.script({ launch: { rehearse: "hang" } });
    const stop = new AbortController();
    const onStep = (_vm: string, step: string) => step === "rehearse" && stop.abort(new Error("enough"));
    const base = createPoolBase(new TemplateMaker(building(fixture, { onStep })), launching(fixture));
    expect(String(await rejection(base.getBaseVm(VM_CONFIG, stop.signal)))).toContain("enough");
    expect(fixture.leftovers()).toEqual([]);
  });
});
