/** Templates that are missing, outdated, broken, half-made or taken away: containers run all the same, and operators see it. */
import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { mount, unmount } from "../../src/sys/mount.ts";
import { isAlive } from "../../src/sys/process-identity.ts";
import { type ConfigOverrides, type Hearth, withHearth } from "../harness/hearth.ts";
import { startPool, vmRecords } from "../harness/pool.ts";
import { PATH } from "../harness/program.ts";

const TIMEOUT_MS = 180_000;
const CONFIG = { hypervisor: { shared_fs: "virtio-9p" }, factory: { enable_template: true } } as const;

interface ShownTemplate {
  readonly dir: string;
  readonly state: string;
  readonly reason: string;
  readonly current: boolean;
  readonly memoryMib: number;
}

async function shownTemplates(hearth: Hearth): Promise<{ usable: boolean; templates: ShownTemplate[] }> {
  const { stdout, status } = await hearth.run(["template", "status", "--json"]);
  expect(status).toBe(0);
  return JSON.parse(stdout) as { usable: boolean; templates: ShownTemplate[] };
}

async function init(hearth: Hearth, config = hearth.configPath): Promise<string> {
  const { stdout, stderr, status } = await hearth.run(["--config", config, "template", "init"]);
  expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
  return stdout;
}

/** Runs a container; where its VM came from, and why not from a template. */
async function run(hearth: Hearth, id: string, config = hearth.configPath) {
  const bundle = await hearth.bundle({ args: ["echo", "hello"] });
  const { stdout, stderr, status } = await hearth.runtime([
    "--config",
    config,
    "--debug",
    "run",
    "--bundle",
    bundle,
    id,
  ]);
  expect({ status, stdout, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stdout: "hello\n", stderr: "" });
  const warnings = stderr.split("\n").filter((line) => line.includes("level=warning") && !line.includes("no KVM"));
  return {
    source: /msg="vm adopted".* source=(\w+)/.exec(stderr)?.[1],
    reasons: warnings.flatMap((line) => /"template gave no vm, booting one" reason=([\w-]+)/.exec(line)?.[1] ?? line),
  };
}

function templateTest(name: string, body: (hearth: Hearth) => Promise<void>, config: ConfigOverrides = CONFIG): void {
  test(name, () => withHearth({ config }, body), TIMEOUT_MS);
}

/** The files of the one template there is. */
function onlyTemplate(hearth: Hearth): { dir: string; memory: string; state: string; record: string } {
  const root = join(hearth.runDir, "template");
  const [name = "", ...more] = readdirSync(root).filter((entry) => entry !== "lock");
  expect(more).toEqual([]);
  const dir = join(root, name);
  return { dir, memory: join(dir, "vm.mem"), state: join(dir, "vm.state"), record: join(dir, "template.json") };
}

templateTest("missing, then of another shape, then there", async (hearth) => {
  expect((await shownTemplates(hearth)).templates).toEqual([]);
  expect(await run(hearth, "missing")).toEqual({ source: "direct", reasons: ["missing"] });
  const larger = hearth.configWith({ hypervisor: { default_memory: 1536 } });
  await init(hearth, larger);
  expect(await run(hearth, "other-shape")).toEqual({ source: "direct", reasons: ["missing"] });
  expect(await run(hearth, "larger", larger)).toEqual({ source: "template", reasons: [] });
  expect(await init(hearth)).toContain(" made\n");
  expect(await init(hearth)).toContain(" is there already\n");
  const { usable, templates } = await shownTemplates(hearth);
  expect(usable).toBe(true);
  expect(templates.map(({ current }) => current).sort()).toEqual([false, true]);
  for (const [id, config] of [
    ["one", hearth.configPath],
    ["two", larger],
  ] as const) {
    expect(await run(hearth, id, config)).toEqual({ source: "template", reasons: [] });
  }
});

/** The default size is one of them. */
const SHAPES = [
  { vcpus: 1, memory: 256, number: 1 },
  { vcpus: 1, memory: 384, number: 1 },
];

templateTest(
  "several sizes: init makes one for each, status tells how many are ready, destroy removes all",
  async (hearth) => {
    const statusLine = async (): Promise<string | undefined> =>
      /^for the configuration in force +(.*)$/m.exec((await hearth.run(["template", "status"])).stdout)?.[1];
    expect(await statusLine()).toBe("none that can be used: VMs are booted");
    const oneSize = hearth.configWith({ factory: { vm_cache_shapes: [] } });
    expect(await init(hearth, oneSize)).toMatch(/^template [0-9a-f]{12} made\n$/);
    expect(await statusLine()).toBe("1 of 2 sizes: VMs of the others are booted");
    expect(await shownTemplates(hearth)).toMatchObject({ usable: false, templates: [{ current: true }] });
    expect(await init(hearth)).toMatch(/^template [0-9a-f]{12} is there already\ntemplate [0-9a-f]{12} made\n$/);
    expect(await statusLine()).toBe("ready");
    const { usable, templates } = await shownTemplates(hearth);
    expect(usable).toBe(true);
    expect(templates.map(({ current, state, memoryMib }) => [current, state, memoryMib]).sort()).toEqual([
      [true, "ready", 256],
      [true, "ready", 384],
    ]);
    // Both are what the pool's VMs are made of.
    await using pool = startPool(hearth, undefined);
    const { boots } = await pool.until("both sizes", ({ idle }) => idle.length === 2);
    expect(boots).toBe(2);
    expect(
      vmRecords(hearth.runDir)
        .map(({ isClone, memoryMib }) => [isClone, memoryMib])
        .sort(),
    ).toEqual([
      [true, 256],
      [true, 384],
    ]);
    expect(await pool.stop()).toBe(0);
    const { status, stdout } = await hearth.run(["template", "destroy"]);
    expect({ status, stdout }).toEqual({
      status: 0,
      stdout: expect.stringMatching(/^(template [0-9a-f]{12} removed\n){2}$/),
    });
    expect((await shownTemplates(hearth)).templates).toEqual([]);
  },
  {
    hypervisor: { ...CONFIG.hypervisor, default_memory: 256 },
    factory: { ...CONFIG.factory, vm_cache_shapes: SHAPES },
  },
);

templateTest("outdated: QEMU was replaced; made anew it is good again", async (hearth) => {
  const qemu = join(hearth.dir, "qemu");
  writeFileSync(qemu, '#!/bin/sh\nexec /usr/bin/qemu-system-x86_64 "$@"\n');
  chmodSync(qemu, 0o755);
  const config = hearth.configWith({ hypervisor: { path: qemu } });
  await init(hearth, config);
  expect(await run(hearth, "before", config)).toEqual({ source: "template", reasons: [] });
  writeFileSync(qemu, '#!/bin/sh\n# upgraded\nexec /usr/bin/qemu-system-x86_64 "$@"\n');
  expect(await run(hearth, "after", config)).toEqual({ source: "direct", reasons: ["outdated"] });
  expect((await shownTemplates(hearth)).templates).toMatchObject([{ state: "outdated" }]);
  expect(await init(hearth, config)).toContain(" made\n");
  expect(await run(hearth, "again", config)).toEqual({ source: "template", reasons: [] });
});

templateTest("broken files are noticed before anything is started", async (hearth) => {
  await init(hearth);
  truncateSync(onlyTemplate(hearth).memory, 4096);
  expect(await run(hearth, "truncated")).toEqual({ source: "direct", reasons: ["broken"] });
  const { usable, templates } = await shownTemplates(hearth);
  expect(usable).toBe(false);
  expect(templates).toMatchObject([{ state: "broken", reason: expect.stringContaining("vm.mem has 4096 bytes") }]);
  const { stdout } = await hearth.run(["template", "status"]);
  expect(stdout).toContain("none that can be used: VMs are booted");
  expect(stdout).toMatch(/broken .*vm\.mem has 4096 bytes/);
  expect(await init(hearth)).toContain(" made\n");
  expect(await run(hearth, "mended")).toEqual({ source: "template", reasons: [] });
});

/** Changes a template so that its record does not tell. */
function disguise(record: string, change: { memory?: string; state?: string }): void {
  const json = JSON.parse(readFileSync(record, "utf8")) as { memory: { stamp: string }; state: object };
  if (change.state !== undefined) {
    const bytes = readFileSync(change.state);
    json.state = { bytes: bytes.length, digest: createHash("sha256").update(bytes).digest("hex") };
  }
  if (change.memory !== undefined) {
    const { dev, ino, size, mtimeNs } = statSync(change.memory, { bigint: true });
    json.memory.stamp = `${dev}:${ino} ${size} ${mtimeNs}`;
  }
  writeFileSync(record, JSON.stringify(json));
}

templateTest(
  "a state that QEMU refuses: one clone fails, and from then on the template is bypassed",
  async (hearth) => {
    await init(hearth);
    const { record, state } = onlyTemplate(hearth);
    const bytes = readFileSync(state);
    writeFileSync(state, bytes.subarray(0, bytes.length / 2));
    disguise(record, { state });
    expect(await run(hearth, "first")).toEqual({ source: "direct", reasons: ["failing"] });
    expect(await run(hearth, "second")).toEqual({ source: "direct", reasons: ["broken"] });
    expect((await shownTemplates(hearth)).templates).toMatchObject([
      { state: "broken", reason: expect.stringMatching(/restore/) },
    ]);
    // The pool's server makes it anew by itself.
    await using pool = startPool(hearth, 1);
    await pool.idle(1);
    expect(vmRecords(hearth.runDir).map(({ isClone }) => isClone)).toEqual([true]);
    expect((await shownTemplates(hearth)).templates).toMatchObject([{ state: "ready" }]);
    expect(await pool.stop()).toBe(0);
  },
);

templateTest(
  "memory that is not what was saved: the guest dies, the container runs elsewhere",
  async (hearth) => {
    await init(hearth);
    const { record, memory } = onlyTemplate(hearth);
    const { size } = statSync(memory);
    truncateSync(memory, 0);
    truncateSync(memory, size);
    utimesSync(memory, 1, 1);
    disguise(record, { memory });
    expect(await run(hearth, "first")).toEqual({ source: "direct", reasons: ["failing"] });
    expect((await shownTemplates(hearth)).templates).toMatchObject([{ state: "broken" }]);
  },
  { ...CONFIG, hypervisor: { ...CONFIG.hypervisor, boot_timeout_ms: 20_000 } },
);

templateTest("no room for a template: said before a VM is booted for it", async (hearth) => {
  const path = join(hearth.dir, "small");
  mkdirSync(path, { mode: 0o700 });
  mount({ source: "tmpfs", target: path, type: "tmpfs", data: "size=100m,mode=700" });
  try {
    const config = hearth.configWith({ factory: { template_path: path } });
    const { status, stderr } = await hearth.run(["--config", config, "template", "init"]);
    expect(status).toBe(1);
    expect(stderr).toMatch(/make template in .*: \d+ MiB free, 256 needed/);
    expect(stderr).toContain("hint: set [factory] template_path");
    expect(readdirSync(path)).toEqual(["lock"]);
    expect(await run(hearth, "all-the-same", config)).toEqual({ source: "direct", reasons: ["missing"] });
  } finally {
    unmount(path);
  }
});

templateTest("a pool whose template cannot be made boots its VMs", async (hearth) => {
  const path = join(hearth.dir, "file");
  writeFileSync(path, "");
  const config = hearth.configWith({
    factory: { template_path: join(path, "template"), vm_cache_number: 1, vm_cache_timeout_ms: 60_000 },
  });
  const changed = { ...hearth, env: { ...hearth.env, HEARTH_CONFIG: config } };
  await using pool = startPool(changed, 1);
  await pool.idle(1);
  expect(vmRecords(hearth.runDir).map(({ isClone }) => isClone)).toEqual([undefined]);
  expect(pool.log()).toContain('msg="make template"');
  expect(await run(hearth, "pooled", config)).toEqual({ source: "pool", reasons: [] });
  expect(await pool.stop()).toBe(0);
});

/** Starts an init and resolves when its VM boots. */
async function beginInit(hearth: Hearth) {
  const child = Bun.spawn([hearth.executable, "template", "init"], {
    env: { PATH, ...hearth.env },
    stdio: ["ignore", "ignore", "ignore"],
  });
  while (vmRecords(hearth.runDir)[0]?.processes.length !== 1) {
    expect(child.exitCode).toBeNull();
    await Bun.sleep(5);
  }
  const [record] = vmRecords(hearth.runDir);
  if (record === undefined) throw new Error("no record");
  return { child, record };
}

templateTest("a killed init is cleared away by init", async (hearth) => {
  const { child, record } = await beginInit(hearth);
  child.kill("SIGKILL");
  await child.exited;
  expect((await shownTemplates(hearth)).templates).toMatchObject([{ state: "interrupted" }]);
  expect(await init(hearth)).toContain(" made\n");
  expect((await shownTemplates(hearth)).templates).toMatchObject([{ state: "ready" }]);
  expect(await run(hearth, "after")).toEqual({ source: "template", reasons: [] });
  // The first one's VM ends at its next step, since nobody is there to tell.
  while (isAlive(record.sandbox)) await Bun.sleep(20);
  expect(vmRecords(hearth.runDir)).toEqual([]);
});

templateTest("an init killed with all its processes is cleared away by destroy", async (hearth) => {
  const { child, record } = await beginInit(hearth);
  for (const pid of [child.pid, record.sandbox.pid]) process.kill(pid, "SIGKILL");
  await child.exited;
  const { status } = await hearth.run(["template", "destroy"]);
  expect(status).toBe(0);
  expect((await shownTemplates(hearth)).templates).toEqual([]);
  expect(existsSync(join(hearth.runDir, "vm", record.vmId))).toBe(false);
  for (const one of record.processes) expect(isAlive(one)).toBe(false);
  expect(await run(hearth, "after")).toEqual({ source: "direct", reasons: ["missing"] });
});

templateTest("an init that is asked to stop leaves nothing", async (hearth) => {
  const { child } = await beginInit(hearth);
  child.kill("SIGTERM");
  expect(await child.exited).toBe(1);
  expect((await shownTemplates(hearth)).templates).toEqual([]);
  expect(vmRecords(hearth.runDir)).toEqual([]);
});

templateTest("clones that run go on when their template is destroyed", async (hearth) => {
  await init(hearth);
  const bundle = await hearth.bundle({ args: ["sleep", "100000"] });
  const outputPath = join(bundle, "output");
  expect((await hearth.runtime(["run", "--detach", "--bundle", bundle, "lives"], { outputPath })).status).toBe(0);
  expect(vmRecords(hearth.runDir).map(({ isClone }) => isClone)).toEqual([true]);
  const { stdout, status } = await hearth.run(["template", "destroy"]);
  expect({ status, stdout }).toEqual({ status: 0, stdout: expect.stringMatching(/^template [0-9a-f]{12} removed\n$/) });
  expect((await hearth.run(["template", "destroy"])).stdout).toBe("no template\n");
  // Reads pages of the template that the clone has never touched, and writes.
  const script = "head -c 30000000 /dev/urandom >/tmp/file; cat /bin/busybox /tmp/file | md5sum | wc -c";
  const { stdout: said } = await hearth.runtime(["exec", "lives", "sh", "-c", script]);
  expect(said).toBe("36\n");
  expect((await hearth.runtime(["delete", "--force", "lives"])).status).toBe(0);
});
