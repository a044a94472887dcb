import { describe, expect, test } from "bun:test";
import type { GenService } from "@bufbuild/protobuf/codegenv2";
import * as grpc from "@grpc/grpc-js";
import { DeadlineError, HearthError } from "../../src/errors.ts";
import { CacheService } from "../../src/gen/cache_pb.ts";
import { GRPC_CONNECTIONS_MAX, GRPC_MESSAGE_BYTES_MAX } from "../../src/limits.ts";
import {
  createGrpcClient,
  createGrpcServer,
  type GrpcCallContext,
  GrpcClient,
  type GrpcServer,
  type GrpcServerOptions,
  registerGrpcService,
} from "../../src/rpc/grpc.ts";
import type { ServiceHandlers } from "../../src/rpc/service.ts";
import type { ByteStream } from "../../src/sys/byte-stream.ts";
import { connectUnix, listenUnix } from "../../src/sys/unix-socket.ts";
import { callHeaders, END_HEADERS, frame, HEADERS, PREFACE, SETTINGS } from "../harness/http2-frames.ts";
import { rejection } from "../harness/rejection.ts";
import { scratch } from "../harness/scratch.ts";

type Handlers =
  typeof CacheService extends GenService<infer Methods> ? ServiceHandlers<Methods, GrpcCallContext> : never;

async function serve(handlers: Handlers, options: GrpcServerOptions = {}) {
  const stack = new AsyncDisposableStack();
  const dir = stack.use(scratch());
  const path = dir.path("cache.sock");
  const server: GrpcServer = stack.use(createGrpcServer([registerGrpcService(CacheService, handlers)], options));
  stack.use(await listenUnix(path, (stream) => server.accept(stream)));
  const connect = () => {
    const client = stack.use(new GrpcClient(path));
    return { client, cache: createGrpcClient(CacheService, client) };
  };
  return { path, server, connect, ...connect(), [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** Copies until one side ends or is cut. */
async function pump(from: ByteStream, to: ByteStream): Promise<void> {
  try {
    for (let chunk = await from.read(); chunk !== null; chunk = await from.read()) await to.write(chunk);
  } catch {
    // The cut.
  }
}

/** Bytes until the other side closes. */
async function readAll(stream: ByteStream): Promise<number> {
  let bytes = 0;
  try {
    for (let chunk = await stream.read(); chunk !== null; chunk = await stream.read()) bytes += chunk.length;
  } catch {
    // Reset is as good as closed.
  }
  return bytes;
}

describe("grpc calls", () => {
  test("a call and its answer, with metadata", async () => {
    await using it = await serve({
      config: (_request, context) => ({
        Data: new TextEncoder().encode(context.metadata["shape"] ?? "none"),
        AgentConfig: new Uint8Array([0, 255]),
      }),
    });
    const answer = await it.cache.config({}, { metadata: { shape: "small" } });
    expect(new TextDecoder().decode(answer.Data)).toBe("small");
    expect([...answer.AgentConfig]).toEqual([0, 255]);
  });

  test("a handler's error arrives with code and message", async () => {
    await using it = await serve({
      getBaseVM: () => {
        throw new HearthError("resource-exhausted", "claim base vm: queue is full");
      },
      status: () => Promise.reject(new TypeError("surprise")),
    });
    expect(await rejection(it.cache.getBaseVM({}))).toMatchObject({
      code: "resource-exhausted",
      message: "claim base vm: queue is full",
    });
    expect(await rejection(it.cache.status({}))).toMatchObject({ code: "internal", message: "surprise" });
    expect(await rejection(it.cache.quit({}))).toMatchObject({ code: "unimplemented" });
  });

  test("many calls on many connections at once", async () => {
    await using it = await serve({
      status: async (_request, context) => ({ pid: BigInt(context.metadata["n"] ?? 0) }),
    });
    const caches = Array.from({ length: 20 }, () => it.connect().cache);
    const answers = await Promise.all(
      Array.from({ length: 200 }, (_, n) => caches[n % 20]?.status({}, { metadata: { n: String(n) } })),
    );
    expect(answers.map((answer) => Number(answer?.pid))).toEqual(Array.from({ length: 200 }, (_, n) => n));
  });

  test("a message over the limit is refused on either way, and the connection goes on", async () => {
    await using it = await serve({
      config: (_request, context) => ({
        Data: new Uint8Array(context.metadata["big"] === undefined ? 10 : GRPC_MESSAGE_BYTES_MAX + 1),
      }),
    });
    expect(await rejection(it.cache.config({}, { metadata: { big: "1" } }))).toMatchObject({
      code: "resource-exhausted",
    });
    expect((await it.cache.config({})).Data.length).toBe(10);
  });
});

describe("deadlines and cancellation", () => {
  test("the deadline ends the call and aborts the handler", async () => {
    const aborted = Promise.withResolvers<unknown>();
    await using it = await serve({
      getBaseVM: (_request, context) => {
        context.signal.addEventListener("abort", () => aborted.resolve(context.signal.reason));
        return new Promise(() => {});
      },
    });
    const error = await rejection(it.cache.getBaseVM({}, { timeoutMs: 100 }));
    expect(error).toBeInstanceOf(DeadlineError);
    expect(await aborted.promise).toMatchObject({ code: "cancelled" });
  });

  test("cancelling tells the server", async () => {
    const started = Promise.withResolvers<GrpcCallContext>();
    const aborted = Promise.withResolvers<void>();
    await using it = await serve({
      getBaseVM: (_request, context) => {
        context.signal.addEventListener("abort", () => aborted.resolve());
        started.resolve(context);
        return new Promise(() => {});
      },
    });
    const abort = new AbortController();
    const call = rejection(it.cache.getBaseVM({}, { signal: abort.signal }));
    await started.promise;
    abort.abort();
    expect(await call).toMatchObject({ code: "cancelled" });
    await aborted.promise;
    expect(await rejection(it.cache.getBaseVM({}, { signal: abort.signal }))).toMatchObject({ code: "cancelled" });
  });

  test("a client that vanishes aborts its calls", async () => {
    const started = Promise.withResolvers<GrpcCallContext>();
    const aborted = Promise.withResolvers<void>();
    await using it = await serve({
      getBaseVM: (_request, context) => {
        context.signal.addEventListener("abort", () => aborted.resolve());
        started.resolve(context);
        return new Promise(() => {});
      },
    });
    // A relay whose connections can be cut, as a killed client's are.
    using dir = scratch();
    const cut: (() => void)[] = [];
    await using relay = await listenUnix(dir.path("relay.sock"), async (near) => {
      const far = await connectUnix(it.path);
      cut.push(() => {
        near.close();
        far.close();
      });
      await Promise.all([pump(near, far), pump(far, near)]);
    });
    await using client = new GrpcClient(relay.path);
    const call = rejection(createGrpcClient(CacheService, client).getBaseVM({}));
    await started.promise;
    for (const cutOff of cut) cutOff();
    await aborted.promise;
    expect(await call).toBeInstanceOf(HearthError);
  });
});

describe("servers that are not there or are something else", () => {
  test("nobody listens: unavailable at once", async () => {
    using dir = scratch();
    await using client = new GrpcClient(dir.path("nobody.sock"));
    expect(await rejection(createGrpcClient(CacheService, client).config({}, { timeoutMs: 5000 }))).toMatchObject({
      code: "unavailable",
    });
  });

  const oddServers: [string, (stream: ByteStream) => void][] = [
    ["accepts and says nothing", () => {}],
    ["closes at once", (stream: ByteStream) => stream.close()],
    [
      "answers HTTP/1",
      (stream: ByteStream) => void stream.write(new TextEncoder().encode("HTTP/1.1 400 Bad Request\r\n\r\n")),
    ],
    [
      "answers noise",
      (stream: ByteStream) => void stream.write(crypto.getRandomValues(new Uint8Array(5000))).catch(() => {}),
    ],
  ];
  test.each(oddServers)("a server that %s ends in an error within the deadline", async (_name, behave) => {
    using dir = scratch();
    const streams: ByteStream[] = [];
    await using listener = await listenUnix(dir.path("odd.sock"), (stream) => {
      streams.push(stream);
      behave(stream);
    });
    await using client = new GrpcClient(listener.path);
    const started = performance.now();
    const error = await rejection(createGrpcClient(CacheService, client).config({}, { timeoutMs: 300 }));
    expect(error).toBeInstanceOf(HearthError);
    expect(["unavailable", "deadline-exceeded", "internal"]).toContain((error as HearthError).code);
    expect(performance.now() - started).toBeLessThan(2000);
    for (const stream of streams) stream.close();
  });
});

describe("clients that misbehave", () => {
  test("bytes that are no HTTP/2 close that connection only", async () => {
    await using it = await serve({ status: () => ({ pid: 7n }) });
    for (const bytes of [new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"), new Uint8Array(100_000).fill(0xa5)]) {
      await using stream = await connectUnix(it.path);
      const reading = readAll(stream);
      await stream.write(bytes).catch(() => {});
      await reading;
    }
    expect((await it.cache.status({})).pid).toBe(7n);
  });

  test("random bytes after a good preface do not crash the server", async () => {
    await using it = await serve({ status: () => ({ pid: 7n }) });
    for (let round = 0; round < 30; round++) {
      await using stream = await connectUnix(it.path);
      const preface = new TextEncoder().encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
      void readAll(stream);
      await stream.write(preface).catch(() => {});
      await stream.write(crypto.getRandomValues(new Uint8Array(500))).catch(() => {});
    }
    expect((await it.cache.status({})).pid).toBe(7n);
  });

  test("a metadata bomb costs the bomber's call only", async () => {
    await using it = await serve({ status: () => ({ pid: 7n }) });
    expect(await rejection(it.cache.status({}, { metadata: { bomb: "x".repeat(1024 * 1024) } }))).toBeInstanceOf(
      HearthError,
    );
    expect((await it.connect().cache.status({})).pid).toBe(7n);
    expect((await it.cache.status({})).pid).toBe(7n);
  });

  test("an unknown method and unknown fields", async () => {
    await using it = await serve({ status: () => ({ pid: 7n }) });
    const raw = new grpc.Client(`unix:${it.path}`, grpc.credentials.createInsecure());
    const call = (path: string, bytes: Buffer): Promise<number> =>
      new Promise((resolve) => {
        const same = (value: Buffer): Buffer => value;
        raw.makeUnaryRequest(path, same, same, bytes, (error) => resolve(error?.code ?? 0));
      });
    expect(await call("/cache.CacheService/Nope", Buffer.alloc(0))).toBe(12);
    expect(await call("/nope.Nope/Status", Buffer.alloc(0))).toBe(12);
    // Field 1000 as a varint: an Empty of a later version.
    expect(await call("/cache.CacheService/Status", Buffer.from([0xc0, 0x3e, 0x01]))).toBe(0);
    expect(await call("/cache.CacheService/Status", Buffer.from([0xff]))).toBe(3);
    raw.close();
  });

  test.each([
    ["headers and no message", frame(HEADERS, END_HEADERS, 1, callHeaders("/cache.CacheService/Status"))],
    ["half a block of headers", frame(HEADERS, 0, 1, callHeaders("/cache.CacheService/Status").subarray(0, 20))],
  ])("a client that sends %s, and then nothing more, is cut off: it is not idle", async (_name, half) => {
    await using it = await serve({ status: () => ({ pid: 7n }) }, { connectionAgeMs: { max: 50, grace: 50 } });
    await using stream = await connectUnix(it.path);
    await stream.write(Buffer.concat([PREFACE, frame(SETTINGS, 0, 0), half]));
    // Until the server closes it: without such an end the test would run into its own.
    expect(await readAll(stream)).toBeGreaterThan(0);
  });

  test("connections over the limit are closed, those under it and later ones served", async () => {
    await using it = await serve({ status: () => ({ pid: 7n }) });
    // One after the other: the kernel's own queue of unaccepted connections is shorter than the limit.
    const streams: ByteStream[] = [];
    for (let n = 0; n < GRPC_CONNECTIONS_MAX + 20; n++) streams.push(await connectUnix(it.path));
    const refused = await Promise.race([
      Promise.all(streams.slice(-20).map((stream) => readAll(stream))),
      new Promise<"still open">((resolve) => setTimeout(() => resolve("still open"), 5000)),
    ]);
    expect(refused).not.toBe("still open");
    for (const stream of streams) stream.close();
    // The server learns of the closes from its own event loop: ask until it has.
    let pid: bigint | undefined;
    for (let attempt = 0; attempt < 100 && pid === undefined; attempt++) {
      pid = (
        await it
          .connect()
          .cache.status({}, { timeoutMs: 1000 })
          .catch(() => undefined)
      )?.pid;
    }
    expect(pid).toBe(7n);
  });
});

describe("shutdown", () => {
  test("answers what is in flight, refuses what comes later", async () => {
    const finish = Promise.withResolvers<void>();
    const started = Promise.withResolvers<void>();
    await using it = await serve({
      getBaseVM: async () => {
        started.resolve();
        await finish.promise;
        return { id: "vm1" };
      },
    });
    const call = it.cache.getBaseVM({});
    await started.promise;
    const down = it.server.shutdown(10_000);
    finish.resolve();
    expect((await call).id).toBe("vm1");
    await down;
    expect(await rejection(it.connect().cache.getBaseVM({}, { timeoutMs: 1000 }))).toBeInstanceOf(HearthError);
  });

  test("cuts off what does not end within the grace", async () => {
    const started = Promise.withResolvers<void>();
    await using it = await serve({
      getBaseVM: () => {
        started.resolve();
        return new Promise(() => {});
      },
    });
    const call = rejection(it.cache.getBaseVM({}));
    await started.promise;
    await it.server.shutdown(50);
    expect(await call).toBeInstanceOf(HearthError);
  });
});
