/** The agent with real crun on the host: life of containers and exec processes, their streams, ends and errors. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { type HostAgent, readAll, startHostAgent } from "./host-agent.ts";

let agent: HostAgent;
beforeAll(async () => {
  agent = await startHostAgent();
});
afterAll(async () => {
  await agent[Symbol.asyncDispose]();
});

let serial = 0;

/** Creates and starts a container and removes it at the end of the scope. */
async function run(args: readonly string[], changes?: Parameters<HostAgent["config"]>[1]) {
  const id = `c${++serial}`;
  const { agent: api } = agent.client;
  await api.createContainer({ containerId: id, execId: id, ociJson: agent.config(args, changes) });
  await api.startContainer({ containerId: id });
  return {
    id,
    ids: { containerId: id, execId: id },
    async [Symbol.asyncDispose]() {
      await api.removeContainer({ containerId: id, timeout: 5 });
    },
  };
}

async function rejection(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
}

describe("init process", () => {
  test("output, exit status, repeated waits, end of stream", async () => {
    await using c = await run(["sh", "-c", "echo out; echo err >&2; exit 7"]);
    const { agent: api } = agent.client;
    expect((await readAll(agent.client, c.id, c.id)).toString()).toBe("out\n");
    expect((await readAll(agent.client, c.id, c.id, "stderr")).toString()).toBe("err\n");
    expect((await api.waitProcess(c.ids)).status).toBe(7);
    expect((await api.waitProcess(c.ids)).status).toBe(7);
    expect(await rejection(api.readStdout({ ...c.ids, len: 10 }))).toMatchObject({ code: "out-of-range" });
  });

  test("a signal ends it with 128 more", async () => {
    await using c = await run(["sleep", "1000"]);
    const { agent: api } = agent.client;
    const waiting = api.waitProcess(c.ids);
    await api.signalProcess({ ...c.ids, signal: 9 });
    expect((await waiting).status).toBe(137);
    expect(await rejection(api.signalProcess({ ...c.ids, signal: 9 }))).toMatchObject({
      code: "failed-precondition",
      message: expect.stringContaining("process already finished"),
    });
  });

  test("stdin to stdout, several MiB, exact", async () => {
    await using c = await run(["cat"]);
    const { agent: api } = agent.client;
    const sent = Buffer.alloc(5 * 1024 * 1024 + 17);
    for (let at = 0; at < sent.length; at++) sent[at] = (at * 31 + (at >> 8)) & 0xff;
    const received = readAll(agent.client, c.id, c.id);
    for (let at = 0; at < sent.length; at += 200_000) {
      await api.writeStdin({ ...c.ids, data: sent.subarray(at, at + 200_000) });
    }
    await api.closeStdin(c.ids);
    const digest = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
    expect(digest(await received)).toBe(digest(sent));
    expect((await api.waitProcess(c.ids)).status).toBe(0);
  });
});
