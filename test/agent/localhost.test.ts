/** The agent's connections to localhost, to real servers in its network namespace. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { LOCALHOST_CONNECTIONS_MAX } from "../../src/limits.ts";
import { rejection } from "../harness/rejection.ts";
import { until } from "../harness/until.ts";
import { type HostAgent, startHostAgent } from "./host-agent.ts";

const PORT = 7000;

let agent: HostAgent;
let serving: Promise<unknown>[];
beforeEach(async () => {
  agent = await startHostAgent();
  serving = [];
  await agent.runInside(["ip", "link", "set", "lo", "up"]);
});
afterEach(async () => {
  await agent[Symbol.asyncDispose]();
  await Promise.all(serving);
});

/** A shell for each connection. */
const serve = (script: string): Promise<void> =>
  startServer(["busybox", "nc", "-ll", "-p", String(PORT), "-e", "sh", "-c", script]);

/** Resolves when it listens; it ends, killed, with the agent's pid namespace. */
async function startServer(argv: readonly string[]): Promise<void> {
  serving.push(rejection(agent.runInside(argv)));
  await until(
    () => agent.runInside(["ss", "-Htln"]),
    (seen) => seen.includes(`:${PORT} `),
  );
}

const calls = () => agent.client.agent;
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

async function readToEnd(id: bigint): Promise<string> {
  let all = "";
  for (;;) {
    const { data } = await calls().readLocalhost({ id });
    if (data.length === 0) return all;
    all += new TextDecoder().decode(data);
  }
}

test.each([false, true])("both ways, and to both ends (IPv6: %p)", async (ip6) => {
  await serve('read -r line; echo "<$line>"; cat');
  const { id } = await calls().connectLocalhost({ ip6, port: PORT });
  await calls().writeLocalhost({ id, data: bytes("one\ntwo\n") });
  await calls().writeLocalhost({ id, data: bytes("") });
  expect(await readToEnd(id)).toBe("<one>\ntwo\n");
  await calls().closeLocalhost({ id });
  // Once more is no fault.
  await calls().closeLocalhost({ id });
  expect(await rejection(calls().readLocalhost({ id }))).toMatchObject({ code: "not-found" });
});

test("nobody listens: refused, and refused again when there were many", async () => {
  for (let count = 0; count <= LOCALHOST_CONNECTIONS_MAX; count++) {
    expect(await rejection(calls().connectLocalhost({ port: PORT }))).toMatchObject({
      message: expect.stringContaining("ECONNREFUSED"),
    });
  }
});

test("closing ends a call that waits, and the server's connection", async () => {
  await serve("cat");
  const { id } = await calls().connectLocalhost({ port: PORT });
  const waiting = rejection(calls().readLocalhost({ id }));
  await calls().closeLocalhost({ id });
  expect(await waiting).toBeInstanceOf(Error);
  const connections = () => agent.runInside(["ss", "-Htn", "state", "established"]);
  await until(connections, (seen) => !seen.includes(`:${PORT}`));
});

test("one more than there may be is refused, and there is room again when one has gone", async () => {
  await startServer([
    process.execPath,
    "-e",
    `Bun.listen({ hostname: "127.0.0.1", port: ${PORT}, socket: { data() {} } })`,
  ]);
  const ids: bigint[] = [];
  while (ids.length < LOCALHOST_CONNECTIONS_MAX) ids.push((await calls().connectLocalhost({ port: PORT })).id);
  expect(await rejection(calls().connectLocalhost({ port: PORT }))).toMatchObject({ code: "resource-exhausted" });
  await calls().closeLocalhost({ id: ids[0] ?? 0n });
  expect((await calls().connectLocalhost({ port: PORT })).id).toBe(BigInt(LOCALHOST_CONNECTIONS_MAX + 1));
});

test.each([0, 65_536])("port %p is none", async (port) => {
  expect(await rejection(calls().connectLocalhost({ port }))).toMatchObject({ code: "invalid-argument" });
});
