/**
 * The units of packaging/systemd under a systemd that is PID 1 of a test host: activation by the socket, readiness, watchdog,
 * restart and stop, with a VM that is idle and one that is in use.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { PoolStatus } from "../../src/vmcache/control.ts";
import { makeBundle } from "../harness/bundle.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";
import { NestedHearth } from "../harness/test-host/nested-hearth.ts";
import { TestHost } from "../harness/test-host/test-host.ts";

const TIMEOUT_MS = 900_000;
const SERVICE = "hearth-vmcache.service";
const SOCKET = "hearth-vmcache.socket";
/** Seconds. An operator's own setting: the minute of the unit would be waited for here. */
const WATCHDOG_S = 30;
/** Seconds from its end by a signal to the next start: longer than the unit's, so that a client comes meanwhile. */
const RESTART_S = 5;

let files: Scratch;
let host: TestHost;
let hearth: NestedHearth;
let sleeper = "";

beforeAll(async () => {
  files = scratch();
  sleeper = await makeBundle(files.path("sleeper"), { args: ["sleep", "1000000"] });
  host = await TestHost.start({ init: "systemd" });
  hearth = await NestedHearth.install(host, { factory: { vm_cache_number: 1 } });
  const times = `[Service]\nWatchdogSec=${WATCHDOG_S}\nRestartSec=${RESTART_S}\n`;
  await host.write(`/etc/systemd/system/${SERVICE}.d/times.conf`, times);
}, TIMEOUT_MS);

afterAll(async () => {
  await host[Symbol.asyncDispose]();
  files[Symbol.dispose]();
});

function systemdTest(name: string, body: () => Promise<void>): void {
  const explained = async (): Promise<void> => {
    try {
      await hearth.explained(body);
    } catch (thrown) {
      process.stderr.write(host.console().split("\n").slice(-80).join("\n"));
      throw thrown;
    }
  };
  test(name, explained, TIMEOUT_MS);
}

const property = (name: string): Promise<string> => host.sh(`systemctl show --property=${name} --value ${SERVICE}`);

/** Waits for what systemd says of the service, in the shell's words. What looks takes the time of what is waited for. */
async function until(condition: string, pauseS = 0.5): Promise<void> {
  const show = `show() { systemctl show --property=$1 --value ${SERVICE}; }`;
  await host.sh(`${show}; until ${condition}; do sleep ${pauseS}; done`, { timeoutMs: TIMEOUT_MS });
}

/** Told by the server, through systemd. */
const full = (): Promise<void> => until('[ "$(show StatusText)" = "1 of 1 vms ready" ]', 3);

async function status(): Promise<PoolStatus> {
  return JSON.parse((await hearth.hearth("vmcache", "status", "--json")).stdout);
}

async function states(): Promise<string[]> {
  return (await hearth.records()).map(({ state }) => state).sort();
}

systemdTest("enabled as README.md says, it is active once it answers, and tells how full the pool is", async () => {
  await host.sh(`systemctl enable --now ${SOCKET} ${SERVICE}`);
  expect(await host.sh(`systemctl is-active ${SOCKET} ${SERVICE}; systemctl is-enabled ${SOCKET} ${SERVICE}`)).toBe(
    "active\nactive\nenabled\nenabled",
  );
  expect((await status()).pid).toBe(Number(await property("MainPID")));
  await full();
});

systemdTest("a container gets its VM from it", async () => {
  expect(await hearth.start("c1", sleeper)).toContain("source=pool");
  await full();
  expect(await states()).toEqual(["adopted", "idle"]);
});

systemdTest("stuck, it is ended by the watchdog and started anew: it takes over the idle VM", async () => {
  const [idle] = (await status()).idle;
  const before = await property("MainPID");
  await host.sh(`kill -STOP ${before}`);
  await until('[ "$(show NRestarts)" = 1 ] && [ "$(show ActiveState)" = active ]');
  expect(await property("MainPID")).not.toBe(before);
  const after = await status();
  expect(after).toMatchObject({ adopted: 1, boots: 0, idle: [{ id: idle?.id }], handedOut: [{ state: "adopted" }] });
});

systemdTest("reloaded, it is the same server with the same VMs", async () => {
  const before = await status();
  await host.sh(`systemctl reload ${SERVICE}`);
  expect(await property("ActiveState")).toBe("active");
  const { pid, idle, boots, configError } = await status();
  expect({ pid, ids: idle.map(({ id }) => id), boots, configError }).toEqual({
    pid: before.pid,
    ids: before.idle.map(({ id }) => id),
    boots: before.boots,
    configError: "",
  });
});

systemdTest(
  "killed, it is started anew: who asks before that waits and is answered, and the idle VM is taken over",
  async () => {
    const { pid, idle } = await status();
    await host.sh(`kill -KILL ${pid}`);
    await until('[ "$(show SubState)" = auto-restart ]');
    const after = await status();
    expect(after.pid).not.toBe(pid);
    expect(after).toMatchObject({
      adopted: 1,
      boots: 0,
      idle: [{ id: idle[0]?.id }],
      handedOut: [{ state: "adopted" }],
    });
  },
);

systemdTest(
  "restarted: who asks meanwhile waits and is answered, the idle VM is replaced, the one in use goes on",
  async () => {
    const { pid, idle } = await status();
    await host.sh(
      `systemctl restart --no-block ${SERVICE}; until [ "$(systemctl show --property=MainPID --value ${SERVICE})" != ${pid} ]; do sleep 0.2; done`,
    );
    const after = await status();
    expect(after.pid).not.toBe(pid);
    expect(after).toMatchObject({ adopted: 0, handedOut: [{ state: "adopted" }] });
    expect(after.idle.map(({ id }) => id)).not.toContain(idle[0]?.id);
    await full();
    expect(await hearth.runtime("exec", "c1", "echo", "undisturbed")).toMatchObject({ stdout: "undisturbed\n" });
  },
);

systemdTest("stopped, it ends the idle VM and leaves the one in use", async () => {
  await host.sh(`systemctl stop ${SOCKET} ${SERVICE}`);
  expect(await property("Result")).toBe("success");
  expect(await states()).toEqual(["adopted"]);
  expect(await host.sh(`ls ${hearth.runDir}/cache.sock 2>&1 || true`)).toContain("No such file");
  // Through the end by the watchdog and through this one.
  expect(await hearth.runtime("exec", "c1", "echo", "undisturbed")).toMatchObject({ stdout: "undisturbed\n" });
});

systemdTest("with its socket alone, the first client starts it", async () => {
  await host.sh(`systemctl start ${SOCKET}`);
  expect(await property("ActiveState")).toBe("inactive");
  expect((await status()).handedOut).toMatchObject([{ state: "adopted" }]);
  expect(await property("ActiveState")).toBe("active");
});

systemdTest("stopped while a VM is being made, it leaves nothing of it", async () => {
  await host.sh(`systemctl stop ${SOCKET} ${SERVICE}`);
  expect(await property("Result")).toBe("success");
  expect(await states()).toEqual(["adopted"]);
  await hearth.runtime("delete", "--force", "c1");
  expect(await NestedHearth.leftovers(host)).toBe("");
});
