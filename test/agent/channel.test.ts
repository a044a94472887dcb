/** The agent's channel under clients that misbehave; a well-behaved one beside them must not notice. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { AgentService } from "../../src/gen/agent_pb.ts";
import { TtrpcClient } from "../../src/rpc/ttrpc/client.ts";
import { encodeFrame, FRAME_DATA, FRAME_REQUEST, FRAME_RESPONSE } from "../../src/rpc/ttrpc/frame.ts";
import { rejection } from "../harness/rejection.ts";
import { type HostAgent, readAll, startHostAgent } from "./host-agent.ts";

/** They wait for what does not happen, or would change this machine. */
const NOT_CALLED: ReadonlySet<string> = new Set([
  ...["GetOOMEvent", "NextNameQuery"],
  ...["DestroySandbox", "CreateSandbox", "SetGuestDateTime"],
]);

let agent: HostAgent;
beforeEach(async () => {
  agent = await startHostAgent();
});
afterEach(async () => {
  await agent[Symbol.asyncDispose]();
});

async function stillServes(): Promise<void> {
  const ids = { containerId: "c", execId: "c" };
  await agent.client.agent.createContainer({ ...ids, ociJson: agent.config(["echo", "fine"]) });
  await agent.client.agent.startContainer(ids);
  expect((await readAll(agent.client, "c", "c")).toString()).toBe("fine\n");
  await agent.client.agent.removeContainer(ids);
}

test("every method of the protocol is there, and a foreign one is not", async () => {
  const client = new TtrpcClient(agent.second);
  for (const method of AgentService.methods) {
    if (NOT_CALLED.has(method.name)) continue;
    const thrown = await client.call(method, new Uint8Array(0)).catch((error: unknown) => error);
    expect(thrown).not.toMatchObject({ code: "unimplemented" });
  }
  const { waitProcess } = AgentService.method;
  const foreign = { ...waitProcess, name: "PullImage" };
  expect(await rejection(client.call(foreign, new Uint8Array(0)))).toMatchObject({ code: "unimplemented" });
  client.close();
  await stillServes();
});

test.each([
  ["random bytes", randomBytes(10_000).fill(0xee, 8, 9)],
  ["a frame of no type", encodeFrame(1, FRAME_REQUEST, 0, randomBytes(10)).fill(9, 8, 9)],
  ["an answer", encodeFrame(1, FRAME_RESPONSE, 0, randomBytes(10))],
])("%s end the connection, and only that", async (_name, bytes) => {
  await agent.second.write(bytes);
  // The end of the socket itself is held open by the program that made the agent's namespaces.
  while (!agent.log().includes("ttrpc connection ended")) await agent.client.health.check({});
  await stillServes();
});

test.each([
  ["requests of random bytes", () => [1, 3, 5, 7].map((id) => encodeFrame(id, FRAME_REQUEST, 0, randomBytes(100)))],
  ["data of no stream", () => [encodeFrame(9, FRAME_DATA, 0, randomBytes(100))]],
  ["ids that go back", () => [5, 3, 5, 1].map((id) => encodeFrame(id, FRAME_REQUEST, 0, new Uint8Array(0)))],
])("%s are answered", async (_name, frames) => {
  for (const frame of frames()) await agent.second.write(frame);
  expect((await agent.second.read())?.length).toBeGreaterThan(10);
  await stillServes();
});

test("half a frame and silence hold up nobody", async () => {
  await agent.second.write(encodeFrame(1, FRAME_REQUEST, 0, randomBytes(1000)).subarray(0, 500));
  await stillServes();
});
