/**
 * KVM, as on the hosts that Hearth is for: everything else is tested under emulation. The test host's CPU has AMD-V, which
 * QEMU emulates.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { makeBundle } from "../harness/bundle.ts";
import { eventually } from "../harness/eventually.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";
import { NestedHearth } from "../harness/test-host/nested-hearth.ts";
import { TestHost } from "../harness/test-host/test-host.ts";

const TIMEOUT_MS = 600_000;
/** What looks takes the time of what is waited for. */
const LOOK_PAUSE_MS = 1_000;
const MIB = 1024 * 1024;
/** Of the base VM, what is plugged for the first container, and what for the update. */
const [BASE_MIB, PLUGGED_MIB, UPDATED_MIB] = [256, 256, 128];

let files: Scratch;
let host: TestHost;
let hearth: NestedHearth;
let bundle = "";
beforeAll(async () => {
  files = scratch();
  const cpu = { quota: 200_000, period: 100_000 };
  bundle = await makeBundle(files.path("bundle"), {
    args: ["sleep", "1000000"],
    config: { linux: { resources: { memory: { limit: PLUGGED_MIB * MIB }, cpu } } },
  });
  host = await TestHost.start();
  hearth = await NestedHearth.make(host, "kvm", {
    hypervisor: { shared_fs: "virtio-fs", default_maxvcpus: 2, default_memory: BASE_MIB, default_maxmemory: 1024 },
    factory: { vm_cache_number: 1, enable_template: true, template_path: "/run/hearth-templates" },
  });
}, TIMEOUT_MS);
afterAll(async () => {
  await host[Symbol.asyncDispose]();
  files[Symbol.dispose]();
});

function kvmTest(name: string, body: () => Promise<void>): void {
  test(name, () => hearth.explained(body), TIMEOUT_MS);
}

async function inside(script: string): Promise<string> {
  return (await hearth.runtime("exec", "c1", "sh", "-c", script)).stdout.trim();
}

kvmTest("is found and used without being asked for", async () => {
  const { stdout } = await hearth.hearth("check");
  expect(stdout).toMatch(/kvm.*usable/);
  expect(await hearth.start("c1", bundle)).not.toContain("no KVM");
  expect(await host.sh("tr '\\0' ' ' </proc/$(pgrep qemu-system)/cmdline")).toContain(" -accel kvm ");
  // A guest under emulation has none of that name.
  expect(await inside("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")).toBe("kvm-clock");
});

kvmTest("vCPUs and memory are plugged into a running VM, before a container starts and by update", async () => {
  expect(await inside("nproc")).toBe("2");
  const total = "awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo";
  const before = Number(await inside(total));
  expect(before).toBeWithin(BASE_MIB, BASE_MIB + PLUGGED_MIB + 1);
  await hearth.runtime("update", `--memory=${(PLUGGED_MIB + UPDATED_MIB) * MIB}`, "c1");
  expect(Number(await inside(total)) - before).toBe(UPDATED_MIB);
});

kvmTest("paused, it stands still; resumed, it goes on", async () => {
  await hearth.runtime("pause", "c1");
  expect(JSON.parse((await hearth.runtime("state", "c1")).stdout)).toMatchObject({ status: "paused" });
  await hearth.runtime("resume", "c1");
  expect(await inside("echo on")).toBe("on");
  await hearth.runtime("delete", "--force", "c1");
});

kvmTest("a pool of clones: saved, restored and handed out", async () => {
  const serving = hearth.hearth("vmcache", "serve");
  serving.catch(() => undefined);
  const idle = async () => (await hearth.records()).find(({ state }) => state === "idle");
  await eventually("an idle VM", idle, TIMEOUT_MS, LOOK_PAUSE_MS);
  expect(await hearth.start("c1", bundle)).toContain("source=pool");
  expect((await hearth.records()).find(({ state }) => state === "adopted")).toMatchObject({ isClone: true });
  expect(await inside("cat /sys/devices/system/clocksource/clocksource0/current_clocksource; nproc")).toBe(
    "kvm-clock\n2",
  );
  await hearth.runtime("delete", "--force", "c1");
  await hearth.hearth("vmcache", "stop");
  expect(await serving).toMatchObject({ status: 0 });
});

kvmTest("nothing is left", async () => {
  await hearth.hearth("template", "destroy");
  expect(await NestedHearth.leftovers(host)).toBe("");
});
