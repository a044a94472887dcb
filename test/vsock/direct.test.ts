/**
 * Containers in booted VMs whose agent is reached over vsock, from the direct factory and from a pool over it, in a test
 * host. Both boot at once, as many as it has vCPUs: a boot takes minutes there.
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

let files: Scratch;
let host: TestHost;
let direct: NestedHearth;
let pool: NestedHearth;
let sleeper = "";
/** Begun together. */
let created: Promise<string>;
let claimed: Promise<Claimed>;

beforeAll(async () => {
  files = scratch();
  sleeper = await makeBundle(files.path("sleeper"), { args: ["sleep", "1000000"] });
  host = await TestHost.start();
  await host.sh("modprobe vhost_vsock");
  // The transport is not named: "auto" finds the device.
  direct = await NestedHearth.make(host, "direct", {});
  pool = await NestedHearth.make(host, "pool", { factory: { vm_cache_number: 1 } });
  created = direct.start("direct", sleeper);
  claimed = claim();
  for (const begun of [created, claimed]) begun.catch(() => undefined);
}, TIMEOUT_MS);

afterAll(async () => {
  await host[Symbol.asyncDispose]();
  files[Symbol.dispose]();
});

interface Claimed {
  readonly booting: VmRecord;
  /** While it booted. */
  readonly cid: number;
  /** Of the create that got the VM. */
  readonly log: string;
  readonly server: ProgramResult;
}

/**
 * A container in a pooled VM. The claim waits in line while the VM boots: one that had been idle for a while would be
 * asked whether it lives, and be given less time for the answer than it takes here. The server boots no second one.
 */
async function claim(): Promise<Claimed> {
  const serving = pool.hearth("vmcache", "serve");
  serving.catch(() => undefined);
  const booting = await pool.firstVm(serving);
  const cid = await pool.cidOf(booting);
  const log = await pool.start("pooled", sleeper);
  await pool.hearth("vmcache", "stop");
  return { booting, cid, log, server: await serving };
}

async function onlyRecord(hearth: NestedHearth): Promise<VmRecord> {
  const records = await hearth.records();
  const [record] = records;
  if (record === undefined || records.length !== 1) throw new Error(`not one VM: ${JSON.stringify(records)}`);
  return record;
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
      await direct.runtime("delete", "--force", "direct");
      expect(await direct.records()).toEqual([]);
    }),
  TIMEOUT_MS,
);

test(
  "pool over direct: a VM keeps the CID it booted with when it is handed out (kata-containers#1106)",
  () =>
    pool.explained(async () => {
      const { booting, cid, log, server } = await claimed;
      expect(log).toContain("source=pool");
      expect(server.status).toBe(0);
      const adopted = await onlyRecord(pool);
      expect(adopted).toMatchObject({ vmId: booting.vmId, state: "adopted" });
      expect(adopted.agentAddress).toEqual({ transport: "vsock", cid });
      expect(await pool.cidOf(adopted)).toBe(cid);
      // The server's end was no end of what it had handed out.
      expect(await pool.runtime("exec", "pooled", "hostname")).toMatchObject({ stdout: "hearth-test\n" });
      await pool.runtime("delete", "--force", "pooled");
      expect(await pool.records()).toEqual([]);
    }),
  TIMEOUT_MS,
);

test("nothing is left: no process, no mount, no directory of a VM", async () => {
  expect(await NestedHearth.leftovers(host)).toBe("");
});
