import { describe, expect, test } from "bun:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { rejection } from "../../../test/harness/rejection.ts";
import { streamPair } from "../../../test/harness/stream-pair.ts";
import { DeadlineError, HearthError } from "../../errors.ts";
import { SandboxService } from "../../gen/sandbox_pb.ts";
import { RequestSchema, type Response, ResponseSchema } from "../../gen/ttrpc_pb.ts";
import { TTRPC_CALLS_IN_FLIGHT_MAX, TTRPC_MESSAGE_BYTES_MAX, TTRPC_UNWRITTEN_BYTES_MAX } from "../../limits.ts";
import type { ByteStream } from "../../sys/byte-stream.ts";
import { RemoteError } from "../status.ts";
import { TtrpcClient } from "./client.ts";
import { createTtrpcClient, registerService } from "./descriptors.ts";
import { encodeFrame, FrameDecoder } from "./frame.ts";
import { serveTtrpc } from "./server.ts";
import type { CallContext, HandlersOf } from "./service.ts";

function connect(handlers: HandlersOf<typeof SandboxService>, chunkBytes?: number) {
  const [left, right] = streamPair(chunkBytes);
  const server = serveTtrpc(right, [registerService(SandboxService, handlers)]);
  const client = new TtrpcClient(left);
  return { left, right, server, client, sandbox: createTtrpcClient(SandboxService, client) };
}

function rawRequest(streamId: number, method: string, payload = new Uint8Array(), flags = 0): Uint8Array {
  const service = "hearth.sandbox.v1.SandboxService";
  return encodeFrame(streamId, 1, flags, toBinary(RequestSchema, create(RequestSchema, { service, method, payload })));
}

async function readResponses(stream: ByteStream, count: number): Promise<Map<number, Response>> {
  const decoder = new FrameDecoder();
  const responses = new Map<number, Response>();
  while (responses.size < count) {
    const chunk = await stream.read();
    if (chunk === null) throw new Error("stream ended");
    for (const frame of decoder.push(chunk)) {
      responses.set(frame.streamId, fromBinary(ResponseSchema, frame.payload ?? new Uint8Array()));
    }
  }
  return responses;
}

describe("ttrpc calls", () => {
  test.each([[1], [7], [64 * 1024]])("a call and its answer in chunks of %d bytes", async (chunkBytes) => {
    const { sandbox, client } = connect(
      { writeStdin: (request) => ({ written: request.data.length + request.containerId.length }) },
      chunkBytes,
    );
    const answer = await sandbox.writeStdin({ containerId: "c1", data: new Uint8Array(1000) });
    expect(answer.written).toBe(1002);
    await client[Symbol.asyncDispose]();
  });

  test("a slow handler holds up nobody and answers come in any order", async () => {
    const slow = Promise.withResolvers<void>();
    const { sandbox } = connect({
      waitProcess: async () => {
        await slow.promise;
        return { exitStatus: 7 };
      },
      info: () => ({ vmId: "v" }),
    });
    const waiting = sandbox.waitProcess({});
    expect((await sandbox.info({})).vmId).toBe("v");
    slow.resolve();
    expect((await waiting).exitStatus).toBe(7);
  });

  test("many calls at once, each with its own answer", async () => {
    const { sandbox } = connect({ writeStdin: async (request) => ({ written: request.data.length }) }, 11);
    const sizes = Array.from({ length: 500 }, (_, index) => index);
    const answers = await Promise.all(sizes.map((size) => sandbox.writeStdin({ data: new Uint8Array(size) })));
    expect(answers.map((answer) => answer.written)).toEqual(sizes);
  });

  test("a handler's error arrives with code and message", async () => {
    const { sandbox } = connect({
      startContainer: () => {
        throw new HearthError("failed-precondition", "start container c1: not created");
      },
      info: () => Promise.reject(new Error("surprise")),
    });
    const error = await rejection(sandbox.startContainer({}));
    expect(error).toBeInstanceOf(RemoteError);
    expect(error).toMatchObject({ code: "failed-precondition", message: "start container c1: not created" });
    expect(await rejection(sandbox.info({}))).toMatchObject({ code: "internal", message: "surprise" });
  });

  test("a method without handler and an unknown service are unimplemented", async () => {
    const { sandbox, client } = connect({});
    expect(await rejection(sandbox.destroy({}))).toMatchObject({ code: "unimplemented" });
    const [left, right] = streamPair();
    serveTtrpc(right, []);
    const other = createTtrpcClient(SandboxService, new TtrpcClient(left));
    expect(await rejection(other.info({}))).toMatchObject({
      code: "unimplemented",
      message: "no method hearth.sandbox.v1.SandboxService/Info",
    });
    client.close();
  });

  test("an answer over the limit is an error of that call only", async () => {
    const { sandbox } = connect({
      listProcesses: () => ({ processList: new Uint8Array(TTRPC_MESSAGE_BYTES_MAX + 1) }),
      info: () => ({ vmId: "v" }),
    });
    expect(await rejection(sandbox.listProcesses({}))).toMatchObject({ code: "resource-exhausted" });
    expect((await sandbox.info({})).vmId).toBe("v");
  });

  test("a request over the limit is refused on this side and harms nothing", async () => {
    const { sandbox, client } = connect({ info: () => ({ vmId: "v" }) });
    const error = await rejection(sandbox.writeStdin({ data: new Uint8Array(TTRPC_MESSAGE_BYTES_MAX) }));
    expect(error).toMatchObject({ code: "resource-exhausted" });
    expect(client.inFlight).toBe(0);
    expect((await sandbox.info({})).vmId).toBe("v");
  });

  test("this module's error types, not a crash, for an answer that does not decode", async () => {
    const [left, right] = streamPair();
    const sandbox = createTtrpcClient(SandboxService, new TtrpcClient(left));
    const call = sandbox.info({});
    await right.read();
    await right.write(
      encodeFrame(1, 2, 0, toBinary(ResponseSchema, create(ResponseSchema, { payload: new Uint8Array([255]) }))),
    );
    expect(await rejection(call)).toMatchObject({ code: "internal" });
  });
});

describe("deadlines and cancellation", () => {
  test("the caller's deadline ends the call and reaches the handler", async () => {
    const seen = Promise.withResolvers<unknown>();
    const { sandbox, client } = connect({
      waitProcess: (_request, context) =>
        new Promise((_resolve, reject) => {
          context.signal.addEventListener("abort", () => {
            seen.resolve(context.signal.reason);
            reject(context.signal.reason);
          });
        }),
      info: () => ({ vmId: "v" }),
    });
    const error = await rejection(sandbox.waitProcess({}, { timeoutMs: 20 }));
    expect(error).toMatchObject({ code: "deadline-exceeded" });
    expect(await seen.promise).toBeInstanceOf(DeadlineError);
    expect((await sandbox.info({})).vmId).toBe("v");
    expect(client.inFlight).toBe(0);
  });

  test("a handler that ignores its signal does not keep the caller", async () => {
    const { sandbox, client } = connect({ waitProcess: () => new Promise(() => {}) });
    expect(await rejection(sandbox.waitProcess({}, { timeoutMs: 10 }))).toBeInstanceOf(DeadlineError);
    expect(client.inFlight).toBe(1);
    client.close();
  });

  test("an abort gives the call up; the late answer is swallowed", async () => {
    const finish = Promise.withResolvers<void>();
    const { sandbox, client } = connect({
      waitProcess: async () => {
        await finish.promise;
        return {};
      },
      info: () => ({ vmId: "v" }),
    });
    const abort = new AbortController();
    const call = sandbox.waitProcess({}, { signal: abort.signal });
    abort.abort();
    expect(await rejection(call)).toMatchObject({ code: "cancelled" });
    finish.resolve();
    expect((await sandbox.info({})).vmId).toBe("v");
    expect(client.inFlight).toBe(0);
    expect(await rejection(sandbox.info({}, { signal: abort.signal }))).toMatchObject({ code: "cancelled" });
    expect(await rejection(sandbox.info({}, { signal: AbortSignal.abort(new DeadlineError("x", 1)) }))).toBeInstanceOf(
      DeadlineError,
    );
  });

  test("more calls than the limit are refused at once on both sides", async () => {
    const { sandbox, client } = connect({ waitProcess: () => new Promise(() => {}) });
    const calls = Array.from({ length: TTRPC_CALLS_IN_FLIGHT_MAX }, () => rejection(sandbox.waitProcess({})));
    expect(await rejection(sandbox.waitProcess({}))).toMatchObject({ code: "resource-exhausted" });
    client.close();
    expect(await calls[0]).toMatchObject({ code: "cancelled" });

    const [left, right] = streamPair();
    serveTtrpc(right, [registerService(SandboxService, { waitProcess: () => new Promise(() => {}) })]);
    const ids = Array.from({ length: TTRPC_CALLS_IN_FLIGHT_MAX + 1 }, (_, index) => 2 * index + 1);
    await Promise.all(ids.map((id) => left.write(rawRequest(id, "WaitProcess"))));
    const responses = await readResponses(left, 1);
    expect([...responses.entries()].map(([id, response]) => [id, response.status?.code])).toEqual([[ids.at(-1), 8]]);
  });
});

describe("the end of a connection", () => {
  test("pending and later calls fail with the true cause", async () => {
    const { left, sandbox, client } = connect({ waitProcess: () => new Promise(() => {}) });
    const pending = rejection(sandbox.waitProcess({}));
    left.breakWith(new HearthError("internal", "cable cut"));
    const error = await pending;
    expect(error).toMatchObject({ code: "unavailable", cause: { message: "cable cut" } });
    expect(await rejection(sandbox.info({}))).toBe(error);
    expect(await client.closed).toMatchObject({ code: "unavailable" });
  });

  test("a server that goes away", async () => {
    const { server, sandbox } = connect({ waitProcess: () => new Promise(() => {}) });
    const pending = rejection(sandbox.waitProcess({}));
    server.close();
    expect(await pending).toMatchObject({ code: "unavailable", message: "ttrpc connection closed by the other side" });
  });

  test("the server's handlers and hooks learn that the client has gone", async () => {
    const context = Promise.withResolvers<CallContext>();
    const order: string[] = [];
    const { client, server, sandbox } = connect({
      waitProcess: (_request, ctx) => {
        ctx.connection.onClose(() => order.push("hook"));
        ctx.connection.onClose(() => {
          throw new Error("a bad hook stops nothing");
        });
        ctx.connection.onClose(() => order.push("taken back"))();
        ctx.connection.onClose(() => order.push("second"));
        context.resolve(ctx);
        return new Promise(() => {});
      },
    });
    const pending = rejection(sandbox.waitProcess({}));
    const { signal, connection } = await context.promise;
    expect(connection).toBe(server);
    expect(connection.isClosed).toBe(false);
    client.close();
    await connection.closed;
    expect(connection.isClosed).toBe(true);
    expect(signal.aborted).toBe(true);
    expect(order).toEqual(["hook", "second"]);
    connection.onClose(() => order.push("late"));
    expect(order).toEqual(["hook", "second", "late"]);
    await pending;
  });

  test("answered resolves once the answer is written, and when it never will be", async () => {
    const contexts: CallContext[] = [];
    const hang = Promise.withResolvers<void>();
    const { sandbox, client } = connect({
      info: (_request, context) => {
        contexts.push(context);
        return {};
      },
      waitProcess: async (_request, context) => {
        contexts.push(context);
        await hang.promise;
        return {};
      },
    });
    await sandbox.info({});
    await contexts[0]?.answered;
    const pending = rejection(sandbox.waitProcess({}));
    await sandbox.info({});
    client.close();
    await pending;
    hang.resolve();
    await contexts[1]?.answered;
    expect(contexts.length).toBe(3);
  });
});

describe("clients that misbehave", () => {
  test.each([
    ["an even stream id", rawRequest(2, "Info"), 2, 3],
    ["a stream that asks to be open", rawRequest(1, "Info", new Uint8Array(), 2), 1, 12],
    ["data on no stream", encodeFrame(9, 3, 0, new Uint8Array([1])), 9, 12],
    ["a payload that does not decode", rawRequest(1, "Info", new Uint8Array([255])), 1, 3],
    ["an envelope that does not decode", encodeFrame(1, 1, 0, new Uint8Array([255, 255])), 1, 3],
    ["an unknown method", rawRequest(1, "Nope"), 1, 12],
  ] as const)("%s is answered with a status, and the connection goes on", async (_name, bytes, id, code) => {
    const [left, right] = streamPair();
    serveTtrpc(right, [registerService(SandboxService, { info: () => ({ vmId: "v" }) })]);
    await left.write(bytes);
    expect((await readResponses(left, 1)).get(id)?.status?.code).toBe(code);
    await left.write(rawRequest(11, "Info"));
    expect((await readResponses(left, 1)).get(11)?.status?.code).toBe(0);
  });

  test("a stream id that was used before is refused", async () => {
    const [left, right] = streamPair();
    serveTtrpc(right, [registerService(SandboxService, { info: () => ({}) })]);
    await left.write(rawRequest(5, "Info"));
    await readResponses(left, 1);
    await left.write(rawRequest(3, "Info"));
    expect((await readResponses(left, 1)).get(3)?.status?.code).toBe(3);
  });

  test("a request over the limit is answered and the connection goes on", async () => {
    const [left, right] = streamPair();
    serveTtrpc(right, [registerService(SandboxService, { info: () => ({}) })]);
    const bytes = new Uint8Array(10 + TTRPC_MESSAGE_BYTES_MAX + 1);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, TTRPC_MESSAGE_BYTES_MAX + 1);
    view.setUint32(4, 1);
    bytes[8] = 1;
    await left.write(bytes);
    expect((await readResponses(left, 1)).get(1)?.status?.code).toBe(8);
    await left.write(rawRequest(3, "Info"));
    expect((await readResponses(left, 1)).get(3)?.status?.code).toBe(0);
  });

  test("bytes that are no frames close the connection, on either side", async () => {
    const [left, right] = streamPair();
    const server = serveTtrpc(right, []);
    await left.write(new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"));
    await server.closed;

    const [here, there] = streamPair();
    const client = new TtrpcClient(here);
    const call = rejection(createTtrpcClient(SandboxService, client).info({}));
    await there.write(new TextEncoder().encode("220 mail.example.org ESMTP\r\n"));
    expect(await call).toMatchObject({ code: "unavailable" });
  });

  test("a client that does not read is not read from for ever", async () => {
    const size = 1024 * 1024;
    let handled = 0;
    const [left, right] = streamPair();
    serveTtrpc(right, [
      registerService(SandboxService, {
        listProcesses: () => {
          handled += 1;
          return { processList: new Uint8Array(size) };
        },
      }),
    ]);
    const asked = 64;
    const writes = Array.from({ length: asked }, (_, index) => left.write(rawRequest(2 * index + 1, "ListProcesses")));
    for (let turn = 0; turn < 200; turn++) await Promise.resolve();
    expect(handled).toBeLessThanOrEqual(TTRPC_UNWRITTEN_BYTES_MAX / size + 2);
    const responses = await readResponses(left, asked);
    await Promise.all(writes);
    expect(responses.size).toBe(asked);
    expect(handled).toBe(asked);
  });

  test("random bytes never crash a server or a client", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 600 }),
        fc.integer({ min: 1, max: 64 }),
        async (bytes, chunkBytes) => {
          const [left, right] = streamPair(chunkBytes);
          const server = serveTtrpc(right, [registerService(SandboxService, { info: () => ({}) })]);
          left.write(bytes).catch(() => {});
          left.endWrite();
          await server.closed;

          const [here, there] = streamPair(chunkBytes);
          const client = new TtrpcClient(here);
          const call = rejection(createTtrpcClient(SandboxService, client).info({}));
          there.write(bytes).catch(() => {});
          there.endWrite();
          expect(await client.closed).toBeInstanceOf(HearthError);
          expect(await call).toBeInstanceOf(HearthError);
        },
      ),
    );
  });

  test("random frames never crash a server, and it still answers", async () => {
    const frame = fc.record({
      streamId: fc.nat(),
      type: fc.constantFrom<1 | 3>(1, 3),
      flags: fc.integer({ min: 0, max: 255 }),
      payload: fc.oneof(
        fc.uint8Array({ maxLength: 60 }),
        fc.constantFrom("Info", "Check").map((method) => rawRequest(1, method).subarray(10)),
      ),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(frame, { maxLength: 20 }), async (frames) => {
        const [left, right] = streamPair();
        serveTtrpc(right, [registerService(SandboxService, { info: () => ({}) })]);
        for (const f of frames) left.write(encodeFrame(f.streamId, f.type, f.flags, f.payload)).catch(() => {});
        left.write(rawRequest(0xffff_ffff, "Info")).catch(() => {});
        const decoder = new FrameDecoder();
        for (;;) {
          const chunk = await left.read();
          expect(chunk).not.toBeNull();
          if (chunk !== null && decoder.push(chunk).some(({ streamId }) => streamId === 0xffff_ffff)) break;
        }
        left.close();
      }),
    );
  });
});
