/**
 * Containers in VMs whose agent is reached over vsock, in a test host: from the direct factory, from a template, and from a
 * pool over each. What must boot boots before it is asked for: it takes a while there, and what it waits for others use.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { AGENT_VSOCK_PORT } from "../../src/paths.ts";
import type { VmRecord } from "../../src/vm/vm-record.ts";
import { makeBundle } from "../harness/bundle.ts";
import type { ProgramResult } from "../harness/program.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";
import { NestedHearth } from "../harness/test-host/nested-hearth.ts";
import { TestHost } from "../harness/test-host/test-host.ts";

const TIMEOUT_MS = 1_500_000;
const TEMPLATES = { enable_template: true, template_path: "/run/hearth-templates" } as const;
const POOL_OF_ONE = { vm_cache_number: 1 } as const;

let files: Scratch;
let host: TestHost;
let direct: NestedHearth;
let pool: NestedHearth;
/** Both make their VMs of the same template. */
let template: NestedHearth;
let clonePool: NestedHearth;
let sleeper = "";
/** Begun one after the other. */
let created: Promise<string>;
let claimed: Promise<Claimed>;
let saved: Promise<ProgramResult>;

beforeAll(async () => {
  files = scratch();
  sleeper = await makeBundle(files.path("sleeper"), { args: ["sleep", "1000000"] });
  host = await TestHost.start();
  await host.sh("modprobe vhost_vsock");
  // The transport is not named: "auto" finds the device.
  direct = await NestedHearth.make(host, "direct", {});
  pool = await NestedHearth.make(host, "pool", { factory: POOL_OF_ONE });
  template = await NestedHearth.make(host, "template", { factory: TEMPLATES });
  clonePool = await NestedHearth.make(host, "clones", { factory: { ...TEMPLATES, ...POOL_OF_ONE } });
  created = direct.start("direct", sleeper);
  claimed = after(created, () => claim(pool, "pooled"));
  saved = after(claimed, () => template.explained(() => template.hearth("template", "init")));
  for (const begun of [created, claimed, saved]) begun.catch(() => undefined);
}, TIMEOUT_MS);

/** What `begin` gives, once `earlier` has ended, however. */
async function after<T>(earlier: Promise<unknown>, begin: () => Promise<T>): Promise<T> {
  await earlier.catch(() => undefined);
  return await begin();
}

afterAll(async () => {
  await host[Symbol.asyncDispose]();
  files[Symbol.dispose]();
});

interface Claimed {
  readonly making: VmRecord;
  /** While it was made. */
  readonly cid: number;
  /** Of the create that got the VM. */
  readonly log: string;
  readonly server: ProgramResult;
}

/**
 * A container in a pooled VM. The claim waits in line while the VM is made: one that had been idle for a while would be
 * asked whether it lives, and be given less time for the answer than it takes here. The server makes no second one.
 */
async function claim(hearth: NestedHearth, id: string): Promise<Claimed> {
  const serving = hearth.hearth("vmcache", "serve");
  serving.catch(() => undefined);
  const making = await hearth.firstVm(serving);
  const cid = await hearth.cidOf(making);
  const log = await hearth.start(id, sleeper);
  await hearth.hearth("vmcache", "stop");
  return { making, cid, log, server: await serving };
}

async function onlyRecord(hearth: NestedHearth): Promise<VmRecord> {
  const records = await hearth.records();
  const [record] = records;
  if (record === undefined || records.length !== 1) throw new Error(`not one VM: ${JSON.stringify(records)}`);
  return record;
}

/** It is in the VM that was being made when it was claimed, by the CID of then, and outlives the server. Returns its CID. */
async function expectClaimed(hearth: NestedHearth, id: string, claim: Claimed): Promise<number> {
  const { making, cid, log, server } = claim;
  expect(log).toContain("source=pool");
  expect(server.status).toBe(0);
  const adopted = await onlyRecord(hearth);
  expect(adopted).toMatchObject({ vmId: making.vmId, state: "adopted" });
  expect(adopted.agentAddress).toEqual({ transport: "vsock", cid });
  expect(await hearth.cidOf(adopted)).toBe(cid);
  expect(await hearth.runtime("exec", id, "hostname")).toMatchObject({ stdout: "hearth-test\n" });
  return cid;
}

async function end(hearth: NestedHearth, id: string): Promise<void> {
  await hearth.runtime("delete", "--force", id);
  expect(await hearth.records()).toEqual([]);
}

test(
  "direct: a container runs, and nobody but the host's root reaches its agent",
  () =>
    direct.explained(async () => {
      expect(await created).toContain("source=direct");
      const cid = await direct.cidOf(await onlyRecord(direct));
      expect(await direct.runtime("exec", "direct", "echo", "hello")).toMatchObject({ stdout: "hello\n" });
      const stranger = await host.bunAsNobody("test/fixtures/vsock-stranger.ts", [`${cid}`, `${AGENT_VSOCK_PORT}`]);
      expect(stranger).toMatchObject({ status: 0, stdout: "closed\n" });
      const console = await host.sh(`cat ${direct.runDir}/vm/*/console.log`);
      expect(console).toContain("vsock connection refused");
      expect(console).toContain(`agent ready" port="vsock ${AGENT_VSOCK_PORT}"`);
      // What the stranger did cost the host's own connection nothing.
      expect(await direct.runtime("exec", "direct", "cat", "/proc/1/comm")).toMatchObject({ stdout: "sleep\n" });
      await end(direct, "direct");
    }),
  TIMEOUT_MS,
);

test(
  "pool over direct: a VM keeps the CID it booted with when it is handed out (kata-containers#1106)",
  () =>
    pool.explained(async () => {
      await expectClaimed(pool, "pooled", await claimed);
      await end(pool, "pooled");
    }),
  TIMEOUT_MS,
);

test(
  "template, and a pool over it: clones of one VM run at once, each with a CID of its own",
  async () => {
    expect((await saved).stdout).toMatch(/^template [0-9a-f]{12} made\n$/);
    const [log, claimedClone] = await Promise.all([
      template.explained(() => template.start("clone", sleeper)),
      clonePool.explained(() => claim(clonePool, "pooled-clone")),
    ]);
    expect(log).toContain("source=template");
    const clone = await onlyRecord(template);
    expect(clone).toMatchObject({ isClone: true, state: "adopted" });
    const cids = [await template.cidOf(clone), await expectClaimed(clonePool, "pooled-clone", claimedClone)];
    expect((await onlyRecord(clonePool)).isClone).toBe(true);
    expect(new Set(cids).size).toBe(2);
    expect(await template.runtime("exec", "clone", "echo", "hello")).toMatchObject({ stdout: "hello\n" });
    await Promise.all([end(template, "clone"), end(clonePool, "pooled-clone")]);
  },
  TIMEOUT_MS,
);

test("nothing is left: no process, no mount, no directory of a VM", async () => {
  expect(await NestedHearth.leftovers(host)).toBe("");
});
