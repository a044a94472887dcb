/** Clones of a saved VM with a real container: over both ways of sharing files, alone and in a pool, and without one. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { statSync } from "node:fs";
import { join } from "node:path";
import { type Hearth, type OpenHearth, openHearth } from "../harness/hearth.ts";
import { startPool, vmRecords } from "../harness/pool.ts";

const VM_TEST_TIMEOUT_MS = 180_000;

/** What `hearth template status --json` prints, as far as it is looked at here. */
interface TemplateStatusJson {
  readonly usable: boolean;
  readonly templates: readonly { readonly dir: string; readonly state: string; readonly kind: string }[];
}

async function templateStatus(hearth: Hearth): Promise<TemplateStatusJson> {
  const { stdout, stderr, status } = await hearth.run(["template", "status", "--json"]);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  return JSON.parse(stdout) as TemplateStatusJson;
}

describe.each([
  ["virtio-9p", "copy-on-write"],
  ["virtio-fs", "copied"],
] as const)("over %s, %s", (sharedFs, kind) => {
  let opened: OpenHearth;
  let hearth: Hearth;
  beforeAll(async () => {
    opened = openHearth({ config: { hypervisor: { shared_fs: sharedFs }, factory: { enable_template: true } } });
    hearth = opened.hearth;
    const { status, stdout, stderr } = await hearth.run(["template", "init"]);
    if (status !== 0) throw new Error(`template init: ${stderr}${opened.describe()}`);
    expect(stdout).toMatch(/^template [0-9a-f]{12} made\n$/);
  }, VM_TEST_TIMEOUT_MS);
  afterAll(() => opened.close());

  /** Runs a shell script in a container of its own; `source` is where its VM came from. */
  async function inContainer(id: string, script: string, config = hearth.configPath) {
    const bundle = await hearth.bundle({ args: ["sh", "-c", script] });
    const { stdout, stderr, status } = await hearth.runtime([
      "--config",
      config,
      "--debug",
      "run",
      "--bundle",
      bundle,
      id,
    ]);
    if (status !== 0) process.stderr.write(opened.describe());
    expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
    return { lines: stdout.trimEnd().split("\n"), source: /msg="vm adopted".* source=(\w+)/.exec(stderr)?.[1], stderr };
  }

  test(
    "a container runs in a clone, without a warning, and nothing of the template is changed by it",
    async () => {
      const before = await templateStatus(hearth);
      expect(before).toMatchObject({ usable: true, templates: [{ state: "ready", kind }] });
      for (const name of ["vm.mem", "vm.state", "template.json"]) {
        expect(statSync(join(before.templates[0]?.dir ?? "", name)).mode & 0o777).toBe(0o600);
      }
      for (const id of ["one", "two"]) {
        const { lines, source, stderr } = await inContainer(id, "echo in >/file; cat /file; hostname");
        expect(lines).toEqual(["in", "hearth-test"]);
        expect(source).toBe("template");
        expect(stderr).not.toContain('level=warning msg="template');
      }
      expect(await templateStatus(hearth)).toMatchObject({ usable: true });
    },
    VM_TEST_TIMEOUT_MS,
  );

  test(
    "a pool of clones",
    async () => {
      const config = hearth.configWith({ factory: { vm_cache_number: 1, vm_cache_timeout_ms: 60_000 } });
      await using pool = startPool(hearth, 1);
      await pool.idle(1);
      expect(vmRecords(hearth.runDir).map(({ isClone }) => isClone)).toEqual([true]);
      const { lines, source } = await inContainer("pooled", "echo pooled", config);
      expect({ lines, source }).toEqual({ lines: ["pooled"], source: "pool" });
      expect(await pool.stop()).toBe(0);
    },
    VM_TEST_TIMEOUT_MS,
  );
});
