/** The agent with real crun on the host: hooks in the guest, their state, and what is told of those that fail, and where. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemCallProgram } from "../harness/system-call-program.ts";
import { type HostAgent, readAll, runContainer, startHostAgent } from "./host-agent.ts";

/** Of root it gives 0, which becomes the exit status. Source: asm/unistd_64.h. */
const GETUID = 102;

let agent: HostAgent;
beforeAll(async () => {
  agent = await startHostAgent();
});
afterAll(async () => {
  await agent[Symbol.asyncDispose]();
});

test.each([
  ["standard error", false, "stdout: said\n, stderr: why\n\n"],
  ["the terminal", true, "stdout: said\r\n, stderr: why\r\n\r\n"],
])("one that fails is told on %s, with its output and nobody else's", async (_name, terminal, said) => {
  const startContainer = ["/good", "/bad", "/good"].map((path) => ({ path }));
  writeFileSync(join(agent.dir, "rootfs/good"), "#!/bin/sh\ncat >/dev/null\n", { mode: 0o755 });
  writeFileSync(join(agent.dir, "rootfs/bad"), "#!/bin/sh\ncat >/dev/null; echo said; echo why >&2; exit 3\n", {
    mode: 0o755,
  });
  await using c = await runContainer(agent, ["echo", "ran"], {
    process: { terminal },
    hooks: { startContainer },
  });
  const output = await readAll(agent.client, c.id, c.id, terminal ? "stdout" : "stderr");
  expect(output.toString()).toBe(`error running hook #1: error running hook: exit status 3, ${said}`);
  expect((await agent.client.agent.waitProcess(c.ids)).status).toBe(1);
});

test("one that takes too long is told too", async () => {
  writeFileSync(join(agent.dir, "rootfs/slow"), "#!/bin/sh\ncat >/dev/null; sleep 1000\n", { mode: 0o755 });
  const startContainer = [{ path: "/slow", timeout: 1 }];
  await using c = await runContainer(agent, ["echo", "ran"], { hooks: { startContainer } });
  const output = await readAll(agent.client, c.id, c.id, "stderr");
  expect(output.toString()).toBe("error running hook #0: hook ran past specified timeout of 1.0s\n");
  expect((await agent.client.agent.waitProcess(c.ids)).status).toBe(1);
});

/** A pipe does not hold it. */
const LONG = "x".repeat(200_000);

test("a hook may end before crun has written its state, which is made sure here", async () => {
  writeFileSync(join(agent.dir, "rootfs/quick"), systemCallProgram(GETUID), { mode: 0o755 });
  // One CPU, on which every hook is preferred to the crun that has started it.
  await agent.runInside(["taskset", "--all-tasks", "--cpu-list", "--pid", "0", "1"]);
  await using c = await runContainer(agent, ["echo", "ran"], {
    process: { scheduler: { policy: "SCHED_IDLE", flags: ["SCHED_FLAG_RESET_ON_FORK"] } },
    hooks: { startContainer: Array.from({ length: 50 }, () => ({ path: "/quick" })) },
  });
  expect((await readAll(agent.client, c.id, c.id, "stderr")).toString()).toBe("");
  expect((await readAll(agent.client, c.id, c.id)).toString()).toBe("ran\n");
});

test("a hook gets all of a state that a pipe does not hold, and its arguments, environment and time", async () => {
  const root = join(agent.dir, "rootfs");
  writeFileSync(join(root, "deaf"), "#!/bin/sh\nexec 0<&-\necho deaf >>/order\n", { mode: 0o755 });
  writeFileSync(join(root, "reader"), "#!/bin/sh\ncat >/state; echo reader $1 $E >>/order\n", { mode: 0o755 });
  const reader = { path: "/reader", args: ["reader", "given"], env: ["PATH=/bin", "E=environment"], timeout: 60 };
  await using c = await runContainer(agent, ["cat", "/order"], {
    hooks: { startContainer: [{ path: "/deaf" }, reader, { path: "/deaf" }] },
    annotations: { long: LONG },
  });
  expect((await readAll(agent.client, c.id, c.id)).toString()).toBe("deaf\nreader given environment\ndeaf\n");
  expect((await agent.client.agent.waitProcess(c.ids)).status).toBe(0);
  const state: unknown = JSON.parse(readFileSync(join(root, "state"), "utf8"));
  expect(state).toMatchObject({ id: c.id, annotations: { long: LONG } });
});

test("a createContainer hook need not read it either", async () => {
  const path = join(agent.dir, "deaf");
  writeFileSync(path, "#!/bin/sh\nexit 0\n", { mode: 0o755 });
  await using c = await runContainer(agent, ["echo", "ran"], {
    hooks: { createContainer: [{ path }] },
    annotations: { long: LONG },
  });
  expect((await readAll(agent.client, c.id, c.id)).toString()).toBe("ran\n");
});

test("a program is held in none of its executions of a hook's file", async () => {
  writeFileSync(join(agent.dir, "rootfs/deaf"), "#!/bin/sh\necho ran >&2\n", { mode: 0o755 });
  await using c = await runContainer(agent, ["sh", "-c", "sleep 1000 | /deaf"], {
    hooks: { startContainer: [{ path: "/deaf" }] },
  });
  expect((await agent.client.agent.readStderr({ containerId: c.id, execId: c.id, len: 0 })).data).toEqual(
    new TextEncoder().encode("ran\n"),
  );
});
