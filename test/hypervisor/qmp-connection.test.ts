/** The QMP protocol against a scripted server in memory: order, ids, deadlines, broken connections, garbage. */
import { afterEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { DeadlineError, HearthError } from "../../src/errors.ts";
import { QmpConnection } from "../../src/hypervisor/qemu/qmp/connection.ts";
import { QmpError } from "../../src/hypervisor/qemu/qmp/message.ts";
import { QMP_CALLS_PENDING_MAX, QMP_LINE_BYTES_MAX } from "../../src/limits.ts";
import { rejection } from "../harness/rejection.ts";
import { GREETING, ScriptedQmp } from "../harness/scripted-qmp.ts";

const scripted = new ScriptedQmp();
afterEach(() => scripted.close());
const pair = scripted.pair.bind(scripted);
const connected = scripted.connected.bind(scripted);

describe("opening", () => {
  test("greets, negotiates, and knows the version, whatever the chunks", async () => {
    for (const chunkBytes of [1, 7, 64 * 1024]) {
      const [client] = await connected(chunkBytes);
      expect(client.version).toEqual({ major: 7, minor: 2, micro: 0, package: "" });
      expect(client.state.kind).toBe("ready");
    }
  });

  test("a server that does not greet is a deadline that names the greeting", async () => {
    const [stream] = pair();
    const error = await rejection(QmpConnection.open(stream, { timeoutMs: 5 }));
    expect(error).toBeInstanceOf(DeadlineError);
    expect(String(error)).toContain("qmp greeting");
    await stream.closed;
  });

  test("an aborted signal ends it", async () => {
    const [stream] = pair();
    const stop = new AbortController();
    const opening = rejection(QmpConnection.open(stream, { signal: stop.signal }));
    stop.abort(new Error("given up"));
    expect(String(await opening)).toContain("given up");
    await stream.closed;
  });

  test("a server that refuses to negotiate is told by its words", async () => {
    const [stream, server] = pair();
    const opening = rejection(QmpConnection.open(stream));
    server.send(GREETING);
    const { id } = await server.command();
    server.send({ error: { class: "CommandNotFound", desc: "not today" }, id });
    expect(String(await opening)).toContain("not today");
  });

  test("a second greeting is a broken peer", async () => {
    const [client, server] = await connected();
    server.send(GREETING);
    expect((await client.closed).message).toContain("second greeting");
  });

  test("random bytes are a clean error", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 300 }), async (noise) => {
        const [stream, server] = pair();
        const opening = rejection(QmpConnection.open(stream, { timeoutMs: 1000 }));
        server.sendBytes(new Uint8Array([...noise, 10]));
        server.stream.endWrite();
        expect(await opening).toBeInstanceOf(HearthError);
      }),
      { numRuns: 50 },
    );
  });
});

describe("calls", () => {
  test("answers find their calls in any order", async () => {
    const [client, server] = await connected();
    const first = client.run("query-status", {});
    const second = client.run("qom-get", { path: "/", property: "type" });
    const one = await server.command();
    const two = await server.command();
    server.send({ return: "machine", id: two.id });
    server.send({ return: { status: "running", running: true, singlestep: false }, id: one.id });
    expect(await second).toBe("machine");
    expect((await first).status).toBe("running");
  });

  test("a refusal is a QmpError with the class and the command's name", async () => {
    const [client, server] = await connected();
    const call = rejection(client.run("device_del", { id: "x" }));
    const { id } = await server.command();
    server.send({ id, error: { class: "DeviceNotFound", desc: "Device 'x' not found" } });
    const error = await call;
    expect(error).toBeInstanceOf(QmpError);
    expect(error).toMatchObject({ code: "not-found", errorClass: "DeviceNotFound" });
    expect(String(error)).toContain("qmp device_del: Device 'x' not found");
  });

  test("an answer of another shape is an error that names the place", async () => {
    const [client, server] = await connected();
    const call = rejection(client.run("query-status", {}));
    const { id } = await server.command();
    server.send({ id, return: { status: 5, running: true } });
    expect(String(await call)).toContain("qmp query-status: unexpected status");
    expect(client.state.kind).toBe("ready");
  });

  test("after its deadline an answer is dropped and the connection goes on", async () => {
    const [client, server] = await connected();
    const late = await rejection(client.run("stop", {}, { timeoutMs: 5 }));
    expect(late).toBeInstanceOf(DeadlineError);
    const { id } = await server.command();
    server.send({ return: {}, id });
    const call = client.run("cont", {});
    server.send({ return: {}, id: (await server.command()).id });
    await call;
  });

  test("an aborted call ends at once; one aborted before is not sent", async () => {
    const [client, server] = await connected();
    const stop = new AbortController();
    const call = rejection(client.run("stop", {}, { signal: stop.signal }));
    await server.command();
    stop.abort(new Error("given up"));
    expect(String(await call)).toContain("given up");
    expect(String(await rejection(client.run("cont", {}, { signal: stop.signal })))).toContain("given up");
    const next = client.run("quit", {});
    const { execute, id } = await server.command();
    expect(execute).toBe("quit");
    server.send({ return: {}, id });
    await next;
  });

  test("an answer to a command that was never given closes the connection", async () => {
    for (const message of [{ return: {}, id: 99 }, { return: {} }, { return: {}, id: 1.5 }]) {
      const [client, server] = await connected();
      const call = rejection(client.run("stop", {}));
      server.send(message);
      expect(String(await call)).toContain("unknown command");
      expect(client.state.kind).toBe("closed");
    }
  });

  test("pending calls fail with the cause of the end, later ones too", async () => {
    const [client, server] = await connected();
    const pending = [rejection(client.run("stop", {})), rejection(client.run("cont", {}))];
    await server.command();
    server.stream.breakWith(new HearthError("unavailable", "the cable was pulled"));
    for (const call of pending) expect(String(await call)).toContain("the cable was pulled");
    expect(String(await rejection(client.run("quit", {})))).toContain("the cable was pulled");
    expect((await client.closed).message).toContain("the cable was pulled");
  });

  test("the cause given to close reaches them as well", async () => {
    const [client, server] = await connected();
    const call = rejection(client.run("stop", {}));
    await server.command();
    client.close(new HearthError("unavailable", "qemu has ended: signal SIGKILL"));
    expect(String(await call)).toContain("signal SIGKILL");
  });

  test("too many at once are refused, not queued", async () => {
    const [client, server] = await connected();
    server.stream.paused = true;
    const calls = Array.from({ length: QMP_CALLS_PENDING_MAX }, () => client.run("stop", {}).catch(() => undefined));
    expect(await rejection(client.run("stop", {}))).toMatchObject({ code: "resource-exhausted" });
    client.close();
    await Promise.all(calls);
  });

  test("a line without end is refused at the limit", async () => {
    const [client, server] = await connected();
    server.sendBytes(new Uint8Array(QMP_LINE_BYTES_MAX + 1).fill(0x20));
    expect((await client.closed).code).toBe("resource-exhausted");
  });
});

describe("events", () => {
  test("one awaited before the command is not missed when it comes before the answer", async () => {
    const [client, server] = await connected();
    using gone = client.awaitEvent("DEVICE_DELETED", ({ device }) => device === "d1");
    const call = client.run("device_del", { id: "d1" });
    const { id } = await server.command();
    server.send({ event: "DEVICE_DELETED", data: { device: "d0", path: "/a" } });
    server.send({ event: "DEVICE_DELETED", data: { device: "d1", path: "/b" } });
    server.send({ return: {}, id });
    await call;
    expect((await gone.received).path).toBe("/b");
  });

  test("listeners stop when told", async () => {
    const [client, server] = await connected();
    const seen: boolean[] = [];
    const off = client.onEvent("VSERPORT_CHANGE", ({ open }) => seen.push(open));
    using first = client.awaitEvent("VSERPORT_CHANGE");
    server.send({ event: "VSERPORT_CHANGE", data: { id: "p", open: true } });
    await first.received;
    off();
    using second = client.awaitEvent("VSERPORT_CHANGE");
    server.send({ event: "VSERPORT_CHANGE", data: { id: "p", open: false } });
    await second.received;
    expect(seen).toEqual([true]);
  });

  test("waiting ends with the deadline, the connection, or when it is given up", async () => {
    const [client] = await connected();
    using late = client.awaitEvent("STOP", undefined, { timeoutMs: 5 });
    expect(await rejection(late.received)).toBeInstanceOf(DeadlineError);
    const dropped = client.awaitEvent("STOP");
    dropped[Symbol.dispose]();
    expect(String(await rejection(dropped.received))).toContain("given up");
    using open = client.awaitEvent("STOP");
    client.close(new HearthError("unavailable", "gone"));
    expect(String(await rejection(open.received))).toContain("gone");
  });

  test("an event of another shape closes the connection with the reason", async () => {
    const [client, server] = await connected();
    client.onEvent("VSERPORT_CHANGE", () => undefined);
    server.send({ event: "VSERPORT_CHANGE", data: { id: 7 } });
    expect((await client.closed).message).toContain("qmp event VSERPORT_CHANGE: unexpected id");
  });
});
