/**
 * Containers in clones whose agent is reached over vsock, one by one and from a pool, in a test host. A clone has a CID of
 * its own, which its guest learns of when it goes on from where its template was saved.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { makeBundle } from "../harness/bundle.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";
import { NestedHearth } from "../harness/test-host/nested-hearth.ts";
import { TestHost } from "../harness/test-host/test-host.ts";

const TIMEOUT_MS = 1_500_000;
const TEMPLATES = { enable_template: true, template_path: "/run/hearth-templates" } as const;

let files: Scratch;
let host: TestHost;
let template: NestedHearth;
let sleeper = "";

beforeAll(async () => {
  files = scratch();
  sleeper = await makeBundle(files.path("sleeper"), { args: ["sleep", "1000000"] });
  host = await TestHost.start();
  await host.sh("modprobe vhost_vsock");
  template = await NestedHearth.make(host, "template", { factory: TEMPLATES });
  const { stdout } = await template.explained(() => template.hearth("template", "init"));
  expect(stdout).toMatch(/^template [0-9a-f]{12} made\n$/);
}, TIMEOUT_MS);

afterAll(async () => {
  await host[Symbol.asyncDispose]();
  files[Symbol.dispose]();
});

/** Two containers at once, in clones that differ in their CIDs; both are gone afterwards. */
async function runTwo(hearth: NestedHearth, source: string): Promise<void> {
  const ids = ["one", "two"];
  for (const log of await Promise.all(ids.map((id) => hearth.start(id, sleeper)))) expect(log).toContain(source);
  const records = (await hearth.records()).filter(({ state }) => state === "adopted");
  expect(records.map(({ isClone }) => isClone)).toEqual([true, true]);
  const cids = await Promise.all(records.map((record) => hearth.cidOf(record)));
  expect(new Set(cids).size).toBe(2);
  const said = await Promise.all(ids.map((id) => hearth.runtime("exec", id, "echo", "hello", id)));
  expect(said.map(({ stdout }) => stdout)).toEqual(["hello one\n", "hello two\n"]);
  await Promise.all(ids.map((id) => hearth.runtime("delete", "--force", id)));
}

test(
  "template: two clones of one VM run at once, each with a CID of its own",
  () =>
    template.explained(async () => {
      await runTwo(template, "source=template");
      expect(await template.records()).toEqual([]);
    }),
  TIMEOUT_MS,
);

test(
  "pool over template: its clones have CIDs of their own, and a container runs in each",
  async () => {
    const pool = await NestedHearth.make(host, "clones", { factory: { ...TEMPLATES, vm_cache_number: 2 } });
    await pool.explained(async () => {
      const serving = pool.hearth("vmcache", "serve");
      serving.catch(() => undefined);
      await pool.firstVm(serving);
      await runTwo(pool, "source=pool");
      await pool.hearth("vmcache", "stop");
      expect((await serving).status).toBe(0);
      expect(await pool.records()).toEqual([]);
    });
  },
  TIMEOUT_MS,
);

test("nothing is left: no process, no mount, no directory of a VM", async () => {
  expect(await NestedHearth.leftovers(host)).toBe("");
});
