/** Clients that are broken or mean no good: answered or refused, and the server serves others during and after. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { GRPC_CONNECTIONS_MAX } from "../../src/limits.ts";
import type { ByteStream } from "../../src/sys/byte-stream.ts";
import { connectSocket } from "../../src/sys/scm.ts";
import { adoptSocket } from "../../src/sys/socket-stream.ts";
import { connectUnix } from "../../src/sys/unix-socket.ts";
import { identityDigest } from "../../src/vm/vm-config.ts";
import { vmCacheStatus } from "../../src/vmcache/control.ts";
import {
  callHeaders,
  DATA,
  END_HEADERS,
  END_STREAM,
  frame,
  HEADERS,
  PREFACE,
  SETTINGS,
} from "../harness/http2-frames.ts";
import { generateKataClient } from "../harness/kata-client.ts";
import { PoolProcess, poolClient } from "../harness/pool-fixture.ts";
import { type SandboxFixture, sandboxFixture, VM_CONFIG } from "../harness/sandbox-fixture.ts";
import { scratch } from "../harness/scratch.ts";

let fixture: SandboxFixture;
let pool: PoolProcess;
beforeAll(() => {
  fixture = sandboxFixture();
  pool = new PoolProcess(fixture, { number: 1, settings: { leaseMs: 100 } });
});
afterAll(async () => {
  await pool[Symbol.asyncDispose]();
  fixture[Symbol.dispose]();
});

/** The same process answers, and hands out a VM. */
async function expectServing(): Promise<void> {
  expect((await vmCacheStatus(pool.endpoint, 10_000)).pid).toBe(pool.child.pid);
  expect((await poolClient(pool.endpoint).getBaseVm(VM_CONFIG, new AbortController().signal)).source).toBe("pool");
}

/** Resolves when the server has closed the connection. */
async function closed(stream: ByteStream): Promise<void> {
  try {
    while ((await stream.read()) !== null);
  } catch {
    // Reset is closed too.
  }
}

const bytes = (...parts: Uint8Array[]): Uint8Array => Buffer.concat(parts);
const GREETING = bytes(PREFACE, frame(SETTINGS, 0, 0));
const STATUS_HEADERS = frame(HEADERS, END_HEADERS, 1, callHeaders("/cache.CacheService/Status"));
const CLAIM_HEADERS = frame(HEADERS, END_HEADERS, 1, callHeaders("/cache.CacheService/GetBaseVM"));
const EMPTY_MESSAGE = frame(DATA, END_STREAM, 1, new Uint8Array(5));
const AT_ONCE = 40;

test("odd requests of a proper client: each has its status, and the next one is answered", async () => {
  using generated = scratch();
  const client = await generateKataClient(generated.dir);
  await pool.seen("listening");
  expect(await client.odd(pool.endpoint)).toEqual({
    "unknown fields": "OK",
    "not protobuf": "INVALID_ARGUMENT",
    "unknown method": "UNIMPLEMENTED",
    "unknown service": "UNIMPLEMENTED",
    "over the size limit": "RESOURCE_EXHAUSTED",
    "metadata bomb": expect.stringMatching(/^(RESOURCE_EXHAUSTED|INTERNAL|UNAVAILABLE|UNKNOWN)$/),
    "one huge entry": expect.stringMatching(/^(RESOURCE_EXHAUSTED|INTERNAL|UNAVAILABLE|UNKNOWN)$/),
    afterwards: "OK",
  });
  await expectServing();
});

describe("connections that are closed at once", () => {
  test.each([
    ["HTTP/1.1", new TextEncoder().encode("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")],
    ["TLS", bytes(Uint8Array.of(0x16, 3, 1, 0, 0xf8, 1, 0, 0, 0xf4), new Uint8Array(243))],
    ["a preface with one wrong byte", bytes(PREFACE.with(5, 0x2b), frame(SETTINGS, 0, 0))],
    ["a frame longer than is allowed", bytes(GREETING, frame(DATA, 0, 1, new Uint8Array(1 << 20)))],
    ["settings of a wrong length", bytes(PREFACE, frame(SETTINGS, 0, 0, new Uint8Array(5)))],
  ])("%s", async (_name, sent) => {
    const streams = await Promise.all(Array.from({ length: AT_ONCE }, () => connectUnix(pool.endpoint)));
    for (const stream of streams) void stream.write(sent).catch(() => {});
    await Promise.all(streams.map(closed));
    for (const stream of streams) stream.close();
    await expectServing();
  });

  test.each([
    ["before a byte", new Uint8Array()],
    ["after half a preface", PREFACE.subarray(0, 10)],
    ["after the greeting", GREETING],
    ["in the middle of a request", bytes(GREETING, STATUS_HEADERS)],
  ])("half-open: the client ends its side %s and waits", async (_name, sent) => {
    const streams = await Promise.all(Array.from({ length: AT_ONCE }, () => connectUnix(pool.endpoint)));
    for (const stream of streams) {
      await stream.write(sent);
      stream.endWrite();
    }
    await Promise.all(streams.map(closed));
    for (const stream of streams) stream.close();
    await expectServing();
  });
});

describe("slow connections hold up nobody, and go when they are left", () => {
  test.each([
    ["nothing", new Uint8Array()],
    ["half a preface", PREFACE.subarray(0, 10)],
    ["a greeting", GREETING],
    ["half a frame header", bytes(GREETING, STATUS_HEADERS.subarray(0, 4))],
    ["half a header block", bytes(GREETING, STATUS_HEADERS.subarray(0, 30))],
    ["headers that are to be continued", bytes(GREETING, frame(HEADERS, 0, 1, callHeaders("/x").subarray(0, 20)))],
    ["data for a stream that was never opened", bytes(GREETING, frame(DATA, 0, 7, new Uint8Array(5)))],
    ["headers without a message", bytes(GREETING, STATUS_HEADERS)],
    ["half a message", bytes(GREETING, STATUS_HEADERS, frame(DATA, 0, 1, Uint8Array.of(0, 0, 0, 0, 9, 1)))],
  ])("%s and then silence", async (_name, sent) => {
    const streams = await Promise.all(Array.from({ length: AT_ONCE }, () => connectUnix(pool.endpoint)));
    for (const stream of streams) await stream.write(sent);
    await expectServing();
    for (const stream of streams) stream.close();
    await expectServing();
  });

  test("a request that comes byte by byte is answered", async () => {
    await using stream = await connectUnix(pool.endpoint);
    for (const byte of bytes(GREETING, STATUS_HEADERS, EMPTY_MESSAGE)) await stream.write(Uint8Array.of(byte));
    // Of the answer's message the digest is plain text; its headers are compressed.
    const digest = identityDigest(VM_CONFIG);
    let answer = "";
    while (!answer.includes(digest)) {
      const chunk = await stream.read();
      if (chunk === null) throw new Error("closed without an answer");
      answer += new TextDecoder("latin1").decode(chunk);
    }
  });
});

test("a claim whose client is cut off in the middle costs at most its VM", async () => {
  for (let index = 0; index < AT_ONCE; index++) {
    const stream = await connectUnix(pool.endpoint);
    await stream.write(bytes(GREETING, CLAIM_HEADERS, EMPTY_MESSAGE));
    stream.close();
  }
  await expectServing();
});

test("1,000 connections at once: as many as fit are kept, the others refused, and all of them let go", async () => {
  const streams: ByteStream[] = [];
  // This way of connecting waits where the kernel's queue of connections that nobody has accepted yet is full.
  for (let index = 0; index < 1000; index++) streams.push(await adoptSocket(await connectSocket(pool.endpoint)));
  for (const stream of streams) void stream.write(GREETING).catch(() => {});
  let refused = 0;
  const { promise: enough, resolve } = Promise.withResolvers<void>();
  for (const stream of streams) {
    void closed(stream).then(() => {
      refused++;
      if (refused >= 1000 - GRPC_CONNECTIONS_MAX) resolve();
    });
  }
  await enough;
  // A few that it had from the tests before may still have had their places.
  expect(refused).toBeLessThan(1000 - GRPC_CONNECTIONS_MAX + AT_ONCE);
  for (const stream of streams) stream.close();
  // It learns of that one by one.
  while ((await vmCacheStatus(pool.endpoint).catch(() => undefined)) === undefined);
  await expectServing();
});
