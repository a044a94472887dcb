/** The agent with real crun on the host: programs that cannot be started are errors of create and exec, in runc's words. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { rejection } from "../harness/rejection.ts";
import { type HostAgent, newContainerId, readAll, runContainer, startHostAgent } from "./host-agent.ts";

let agent: HostAgent;
beforeAll(async () => {
  agent = await startHostAgent();
});
afterAll(async () => {
  await agent[Symbol.asyncDispose]();
});

const run = (args: readonly string[]) => runContainer(agent, args);

async function exec(containerId: string, execId: string, args: readonly string[], changes: object = {}) {
  const process = { args, cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 }, ...changes };
  const processJson = new TextEncoder().encode(JSON.stringify(process));
  await agent.client.agent.execProcess({ containerId, execId, processJson });
  return { containerId, execId };
}

const FAILURES = [
  ["nope", "not-found", 'exec: "nope": executable file not found in $PATH'],
  ["/bin/nope", "not-found", 'exec: "/bin/nope": stat /bin/nope: no such file or directory'],
  ["/tmp", "permission-denied", 'exec: "/tmp": permission denied'],
  ["/bin/sh/x", "permission-denied", 'exec: "/bin/sh/x": stat /bin/sh/x: not a directory'],
] as const;

describe("failing to start a program", () => {
  test.each(FAILURES)("create %s", async (program, code, message) => {
    const id = `bad-${newContainerId()}`;
    const ociJson = agent.config([program]);
    const thrown = await rejection(agent.client.agent.createContainer({ containerId: id, execId: id, ociJson }));
    expect(thrown).toMatchObject({ code, message: expect.stringContaining(message) });
    // Nothing is left: the id is free again, and crun knows nothing of it.
    expect(await rejection(agent.client.agent.startContainer({ containerId: id }))).toMatchObject({
      code: "not-found",
    });
    await using _again = await run(["true"]);
  });

  test.each(FAILURES)("exec %s", async (program, code, message) => {
    await using c = await run(["sleep", "1000"]);
    const thrown = await rejection(exec(c.id, "e", [program]));
    expect(thrown).toMatchObject({ code, message: expect.stringContaining(message) });
    const { execId } = await exec(c.id, "e", ["true"]);
    expect((await agent.client.agent.waitProcess({ containerId: c.id, execId })).status).toBe(0);
  });

  test("a program that is not its user's to execute", async () => {
    for (const [name, mode] of Object.entries({ own: 0o700, groups: 0o710, "closed/program": 0o755 })) {
      const file = join(agent.dir, "rootfs", name);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, "#!/bin/sh\necho ran\n", { mode });
    }
    chmodSync(join(agent.dir, "rootfs/closed"), 0o700);
    const user = { uid: 1000, gid: 100 };
    const inPath = { user, env: ["PATH=/nowhere:/:/bin"] };
    await using c = await run(["sleep", "1000"]);
    for (const [args, changes, message] of [
      [["/own"], { user }, 'exec: "/own": permission denied'],
      [["groups"], inPath, 'exec: "groups": permission denied'],
      [
        ["../closed/program"],
        { user, cwd: "/tmp" },
        'exec: "../closed/program": stat ../closed/program: permission denied',
      ],
    ] as const) {
      const id = newContainerId();
      const ociJson = agent.config(args, { process: changes });
      const expected = { code: "permission-denied", message: expect.stringContaining(message) };
      const creating = agent.client.agent.createContainer({ containerId: id, execId: id, ociJson });
      expect(await rejection(creating)).toMatchObject(expected);
      expect(await rejection(exec(c.id, "e", args, changes))).toMatchObject(expected);
    }
    const group = { user: { ...user, additionalGids: [0] } };
    await exec(c.id, "e", ["/groups"], group);
    expect((await readAll(agent.client, c.id, "e")).toString()).toBe("");
    expect((await readAll(agent.client, c.id, "e", "stderr")).toString()).toContain("can't open");
    copyFileSync(join(agent.dir, "rootfs/bin/busybox"), join(agent.dir, "rootfs/closed/true"));
    const sets = ["bounding", "effective", "permitted"].map((set) => [set, ["CAP_DAC_OVERRIDE"]]);
    await exec(c.id, "e", ["/closed/true"], { user, capabilities: Object.fromEntries(sets) });
    expect((await agent.client.agent.waitProcess({ containerId: c.id, execId: "e" })).status).toBe(0);
  });

  test("exec in a directory that is not there is not taken for a missing program", async () => {
    await using c = await run(["sleep", "1000"]);
    const thrown = await rejection(exec(c.id, "e", ["true"], { cwd: "/nope" }));
    expect(thrown).toMatchObject({
      code: "failed-precondition",
      message: expect.stringContaining('chdir to cwd ("/nope")'),
    });
  });
});
