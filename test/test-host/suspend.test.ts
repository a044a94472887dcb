/**
 * A host that is really suspended to memory, with a pool of VMs and a container that runs. The test host's own suspension: its processes and CLOCK_MONOTONIC stand still, its time of day goes on.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { PoolStatus } from "../../src/vmcache/control.ts";
import { makeBundle } from "../harness/bundle.ts";
import { eventually } from "../harness/eventually.ts";
import { CLOCK_PROGRAM } from "../harness/guest-clock.ts";
import type { ProgramResult } from "../harness/program.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";
import { NestedHearth } from "../harness/test-host/nested-hearth.ts";
import { TestHost } from "../harness/test-host/test-host.ts";

const TIMEOUT_MS = 900_000;
const SLEEP_S = 30;
/** What looks takes the time of what is waited for. */
const LOOK_PAUSE_MS = 3_000;

let files: Scratch;
let host: TestHost;
let hearth: NestedHearth;
let serving: Promise<ProgramResult>;
let sleeper = "";
let clock = "";

beforeAll(async () => {
  files = scratch();
  sleeper = await makeBundle(files.path("sleeper"), { args: ["sleep", "1000000"] });
  clock = await makeBundle(files.path("clock"), { args: CLOCK_PROGRAM });
  host = await TestHost.start({ carry: [files.dir] });
  hearth = await NestedHearth.make(host, "suspended", { factory: { vm_cache_number: 1 } });
  serving = hearth.hearth("vmcache", "serve");
  serving.catch(() => undefined);
  await idle();
}, TIMEOUT_MS);

afterAll(async () => {
  await host[Symbol.asyncDispose]();
  files[Symbol.dispose]();
});

function suspensionTest(name: string, body: () => Promise<void>): void {
  test(name, () => hearth.explained(body), TIMEOUT_MS);
}

async function status(): Promise<PoolStatus> {
  return JSON.parse((await hearth.hearth("vmcache", "status", "--json")).stdout);
}

async function metrics(): Promise<string> {
  const unix = JSON.stringify(`${hearth.runDir}/metrics.sock`);
  const script = `console.log(await (await fetch("http://localhost/metrics", { unix: ${unix} })).text())`;
  return (await host.ok([process.execPath, "--eval", script])).stdout;
}

/** Until a VM is idle; its id. */
async function idle(): Promise<string> {
  const look = async () => (await hearth.records()).find(({ state }) => state === "idle")?.vmId;
  return await eventually("an idle VM", look, TIMEOUT_MS, LOOK_PAUSE_MS);
}

suspensionTest(
  "suspended to memory and awake again: the pool checks its VM, which has survived, and says so",
  async () => {
    expect(await hearth.start("c1", sleeper)).toContain("source=pool");
    const before = await idle();
    expect((await status()).suspensions).toBe(0);
    await host.suspend(SLEEP_S);
    expect(await host.sh("busybox dmesg")).toContain("ACPI: PM: Waking up from system sleep state S3");
    const isNoticed = async () => ((await status()).suspensions === 1 ? true : undefined);
    await eventually("the pool to notice", isNoticed, TIMEOUT_MS, LOOK_PAUSE_MS);
    expect(await idle()).toBe(before);
    expect(await status()).toMatchObject({ losses: 0, bootFailures: 0, handedOut: [{ state: "adopted" }] });
    expect(await metrics()).toContain("\nhearth_pool_host_suspensions_total 1\n");
  },
);

suspensionTest("the container that ran has the host's time again, without having been asked for anything", async () => {
  await hearth.expectRightClock("exec", "c1", ...CLOCK_PROGRAM);
});

suspensionTest("the first process of a container in a VM that was idle meanwhile has the host's time", async () => {
  const { hits } = await status();
  await hearth.expectRightClock("run", "--bundle", clock, "c2");
  expect((await status()).hits).toBe(hits + 1);
});

suspensionTest("a running container follows the host's clock when that is set", async () => {
  await host.sh("date --set='+1 hour'");
  await hearth.expectRightClock("exec", "c1", ...CLOCK_PROGRAM);
});

suspensionTest("nothing is left", async () => {
  await hearth.runtime("delete", "--force", "c1");
  await hearth.hearth("vmcache", "stop");
  expect(await serving).toMatchObject({ status: 0 });
  expect(await NestedHearth.leftovers(host)).toBe("");
});
