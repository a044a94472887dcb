/** The agent with real crun on the host: what is told of startContainer hooks that fail, and where. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type HostAgent, readAll, runContainer, startHostAgent } from "./host-agent.ts";

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
