/** Processes that wait with their pipes locked in the kernel, as `cat` of a silent socket does: the agent serves all others. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { WRITES } from "../../src/sys/carried-fd.ts";
import { eventually } from "../harness/eventually.ts";
import { type HostAgent, readAll, runContainer, startHostAgent } from "./host-agent.ts";

/** Source: asm/unistd_64.h. */
const SENDFILE = 40;
const BOTH = 3;

let agent: HostAgent;
beforeAll(async () => {
  agent = await startHostAgent();
});
afterAll(async () => {
  await agent[Symbol.asyncDispose]();
});

const sh = (script: string): string[] => ["sh", "-c", script];

async function exec(containerId: string, execId: string, script: string, descriptors: number[] = []) {
  const process = { args: sh(script), cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 } };
  const processJson = new TextEncoder().encode(JSON.stringify(process));
  await agent.client.agent.execProcess({ containerId, execId, processJson, descriptors });
  return { containerId, execId };
}

/** Until so many processes wait in sendfile(2). */
async function untilLocked(count: number): Promise<void> {
  await eventually(`${count} processes in sendfile`, async () => {
    const calls = await agent.runInside(sh("cat /proc/[0-9]*/syscall 2>/dev/null; true"));
    return calls.split("\n").filter((line) => line.startsWith(`${SENDFILE} `)).length === count ? true : undefined;
  });
}

test("other processes and containers are served, and a kill ends it", async () => {
  await using container = await runContainer(agent, ["sleep", "1000"]);
  const { agent: api } = agent.client;
  const locking = await exec(container.id, "locking", "echo before; echo beside >&4; exec cat <&3", [BOTH, WRITES]);
  await untilLocked(1);
  const output = readAll(agent.client, container.id, "locking");
  const other = await exec(container.id, "other", "cat; exit 7");
  await api.writeStdin({ ...other, data: new TextEncoder().encode("other") });
  await api.closeStdin(other);
  expect((await readAll(agent.client, container.id, "other")).toString()).toBe("other");
  expect((await api.waitProcess(other)).status).toBe(7);
  expect((await api.readStdout({ ...locking, len: 0, descriptor: 4 })).data).toEqual(Buffer.from("beside\n"));
  await using second = await runContainer(agent, ["echo", "second"]);
  expect((await readAll(agent.client, second.id, second.id)).toString()).toBe("second\n");
  await api.signalProcess({ ...locking, signal: 9 });
  expect((await output).toString()).toBe("before\n");
  expect((await api.waitProcess(locking)).status).toBe(137);
});

test("the source goes on, and so does the output", async () => {
  await using container = await runContainer(agent, ["sleep", "1000"]);
  const { agent: api } = agent.client;
  const locking = await exec(container.id, "locking", "echo before; exec cat <&3", [BOTH]);
  await untilLocked(1);
  const output = readAll(agent.client, container.id, "locking");
  await api.writeStdin({ ...locking, descriptor: 3, data: new TextEncoder().encode("after\n") });
  await api.closeStdin({ ...locking, descriptor: 3 });
  expect((await output).toString()).toBe("before\nafter\n");
  expect((await api.waitProcess(locking)).status).toBe(0);
});

test("a container is removed whose processes have left locked pipes behind", async () => {
  const { agent: api } = agent.client;
  {
    await using container = await runContainer(agent, ["sleep", "1000"]);
    const ended = await exec(container.id, "ended", "echo before; cat <&3 & cat <&4 >&2 &", [BOTH, BOTH]);
    expect((await api.waitProcess(ended)).status).toBe(0);
    await untilLocked(2);
    const errors = readAll(agent.client, container.id, "ended", "stderr");
    expect((await errors).toString()).toBe("");
  }
  await using next = await runContainer(agent, ["echo", "next"]);
  expect((await readAll(agent.client, next.id, next.id)).toString()).toBe("next\n");
});
