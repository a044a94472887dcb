import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { O_RDONLY, openFd, pipe, socketpair } from "../../src/sys/fd.ts";
import { connectPassingFds } from "../../src/sys/fd-passing-stream.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { spawnProcess } from "../../src/sys/process.ts";
import { getWindowSize, isTerminal, openPty, setWindowSize } from "../../src/sys/pty.ts";
import { ConsoleListener, receiveFds, sendFds, sendFdTo, tryReceiveFds } from "../../src/sys/scm.ts";
import { listenUnix } from "../../src/sys/unix-socket.ts";

const fixture = (name: string): string => join(import.meta.dir, "fixtures", name);

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "hearth-scm-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

describe("sendFds and receiveFds", () => {
  test("data and descriptors arrive together, close-on-exec", async () => {
    const [left, right] = socketpair();
    writeFileSync(join(dir, "f"), "content");
    using file = openFd(join(dir, "f"), O_RDONLY);
    const { readEnd, writeEnd } = pipe();
    expect(tryReceiveFds(right.fd, 100, 4)).toBeUndefined();
    const receiving = receiveFds(right.fd, 100, 4);
    await sendFds(left.fd, Buffer.from("hello"), [file.fd, writeEnd.fd]);
    const { data, fds } = await receiving;
    expect(Buffer.from(data).toString()).toBe("hello");
    expect(fds.length).toBe(2);
    const [gotFile, gotPipe] = fds;
    if (gotFile === undefined || gotPipe === undefined) throw new Error("missing");
    expect(readFileSync(`/proc/self/fd/${gotFile.fd}`, "utf8")).toBe("content");
    expect(readFileSync(`/proc/self/fdinfo/${gotFile.fd}`, "utf8")).toMatch(/flags:\s+0?2\d{6}/);
    writeEnd.close();
    writeSync(gotPipe.fd, "x");
    gotPipe.close();
    using reader = new FdReader(readEnd);
    expect((await reader.read())?.length).toBe(1);
    expect(await reader.read()).toBeNull();
    gotFile.close();
    left.close();
    expect((await receiveFds(right.fd, 100, 4)).data.length).toBe(0);
    right.close();
  });

  test("more descriptors than expected are an error and none leaks", async () => {
    const [left, right] = socketpair();
    const before = readdirSync("/proc/self/fd").length;
    await sendFds(left.fd, Buffer.from("x"), [left.fd, left.fd, left.fd, left.fd]);
    expect(() => tryReceiveFds(right.fd, 10, 1)).toThrow("more than 1");
    expect(readdirSync("/proc/self/fd").length).toBe(before);
    left.close();
    right.close();
  });

  test("large data waits for the reader and is whole", async () => {
    const [left, right] = socketpair();
    const size = 2_000_000;
    const sending = sendFds(left.fd, new Uint8Array(size).fill(5), [left.fd]);
    let bytes = 0;
    let fdCount = 0;
    while (bytes < size) {
      const { data, fds } = await receiveFds(right.fd, 65536, 1);
      bytes += data.length;
      fdCount += fds.length;
      for (const fd of fds) fd.close();
    }
    await sending;
    expect([bytes, fdCount]).toEqual([size, 1]);
    left.close();
    right.close();
  });
});

describe("ConsoleListener", () => {
  test("gets a pty master from a sender that has exited since", async () => {
    const path = join(dir, "console.sock");
    await using listener = ConsoleListener.listen(path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const sender = spawnProcess({ argv: [process.execPath, fixture("send-pty.ts"), path] });
    expect(await sender.exited).toEqual({ kind: "exited", code: 0 });
    using master = await listener.receive({ timeoutMs: 5000 });
    expect(isTerminal(master.fd)).toBe(true);
    setWindowSize(master.fd, { rows: 5, columns: 7 });
    expect(getWindowSize(master.fd)).toEqual({ rows: 5, columns: 7 });
  });

  test("sendFdTo is its other side", async () => {
    const path = join(dir, "console.sock");
    await using listener = ConsoleListener.listen(path);
    const receiving = listener.receive({ timeoutMs: 5000 });
    const { master, terminal } = openPty();
    await sendFdTo(path, Buffer.from("/dev/pts/x"), master.fd, { timeoutMs: 5000 });
    master.close();
    using received = new FdReader(await receiving);
    writeSync(terminal.fd, "hi");
    expect(Buffer.from((await received.read()) ?? "").toString()).toBe("hi");
    terminal.close();
    expect(await received.read()).toBeNull();
  });

  test("a peer that sends nothing, a deadline, an abort and a close are errors", async () => {
    const path = join(dir, "console.sock");
    const listener = ConsoleListener.listen(path);
    await expect(listener.receive({ timeoutMs: 20 })).rejects.toMatchObject({ code: "deadline-exceeded" });
    await expect(listener.receive({ signal: AbortSignal.abort(new Error("enough")) })).rejects.toThrow("enough");
    const silent = listener.receive().catch((error: unknown) => error);
    const peer = await connectPassingFds(path);
    peer.close();
    expect(await silent).toMatchObject({ code: "failed-precondition" });
    const pending = listener.receive().catch((error: unknown) => error);
    listener.close();
    expect(await pending).toMatchObject({ code: "cancelled" });
    expect(existsSync(path)).toBe(false);
    listener.close();
  });

  test("does not replace a file", () => {
    writeFileSync(join(dir, "f"), "precious");
    expect(() => ConsoleListener.listen(join(dir, "f"))).toThrow("EADDRINUSE");
  });

  test("sendFdTo nobody", async () => {
    await expect(sendFdTo(join(dir, "none"), Buffer.from("x"), openPtyMaster())).rejects.toMatchObject({
      code: "not-found",
    });
  });
});

function openPtyMaster() {
  const { master, terminal } = openPty();
  terminal.close();
  return master.release();
}

test("FdPassingStream keeps the order of writes with and without descriptors", async () => {
  const path = join(dir, "s");
  const { readEnd, writeEnd } = pipe();
  const server = spawnProcess({
    argv: [process.execPath, fixture("fd-server.ts"), path],
    stdio: ["ignore", writeEnd.fd],
  });
  writeEnd.close();
  using up = new FdReader(readEnd);
  await up.read();
  await using stream = await connectPassingFds(path);
  const passed = pipe();
  const writes = [
    stream.write(new Uint8Array(1_000_000)),
    stream.writeWithFds(Buffer.from("abc"), [passed.writeEnd.fd]),
    stream.write(Buffer.from("def")),
  ];
  await Promise.all(writes);
  passed.writeEnd.close();
  stream.endWrite();
  let answer = "";
  for (let chunk = await stream.read(); chunk !== null; chunk = await stream.read()) answer += Buffer.from(chunk);
  expect(answer).toBe("1000006 abcdef");
  using reader = new FdReader(passed.readEnd);
  expect(Buffer.from((await reader.read()) ?? "").toString()).toBe("through");
  expect(await server.exited).toEqual({ kind: "exited", code: 0 });
});

test("closing an FdPassingStream closes the connection for the peer", async () => {
  const path = join(dir, "s");
  const ended = Promise.withResolvers<void>();
  await using _server = await listenUnix(path, async (stream) => {
    while ((await stream.read()) !== null);
    ended.resolve();
    stream.close();
  });
  const stream = await connectPassingFds(path);
  await stream.write(Buffer.from("x"));
  stream.close();
  await ended.promise;
  await expect(stream.write(new Uint8Array(1))).rejects.toMatchObject({ code: "unavailable" });
  await expect(stream.writeWithFds(new Uint8Array(1), [])).rejects.toMatchObject({ code: "unavailable" });
});
