import { describe, expect, test } from "bun:test";
import { readFileSync, readSync, writeSync } from "node:fs";
import { clockNanoseconds, setRealtime } from "../../src/sys/clock.ts";
import { asFd, dup, isOpen, OwnedFd, pipe, setCloseOnExec, setNonBlocking } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { inNetns, isOwnNetns, namespaceInode, namespaceName } from "../../src/sys/namespace.ts";
import { spawnProcess } from "../../src/sys/process.ts";
import { getWindowSize, isTerminal, makeRaw, openPty, ptyPath, setWindowSize } from "../../src/sys/pty.ts";
import { reseedKernelRandom } from "../../src/sys/random.ts";
import { pollFd } from "../../src/sys/readiness.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";

describe("fd", () => {
  test("an owner closes once and can give up", () => {
    const { readEnd, writeEnd } = pipe();
    const number = readEnd.fd;
    readEnd.close();
    expect(isOpen(number)).toBe(false);
    using other = dup(writeEnd.fd);
    readEnd.close();
    expect(isOpen(other.fd)).toBe(true);
    expect(() => readEnd.fd).toThrow("already closed");
    const released = writeEnd.release();
    writeEnd.close();
    expect(isOpen(released)).toBe(true);
    new OwnedFd(released).close();
    expect(() => asFd(-1)).toThrow("use file descriptor -1");
    expect(() => setNonBlocking(released, true)).toThrow("EBADF");
  });

  test("close-on-exec is set at birth and can be taken off", () => {
    using fd = pipe().readEnd;
    const flags = (): string => readFileSync(`/proc/self/fdinfo/${fd.fd}`, "utf8");
    expect(flags()).toMatch(/flags:\s+0?2000000/);
    setCloseOnExec(fd.fd, false);
    expect(flags()).toMatch(/flags:\s+00?\n/);
    setCloseOnExec(fd.fd, true);
    expect(flags()).toMatch(/flags:\s+0?2000000/);
  });
});

describe("readiness", () => {
  test("a descriptor that was closed before it was released does not spoil its number", async () => {
    const first = pipe();
    const number = first.readEnd.fd;
    const stale = pollFd(number);
    first.readEnd.close();
    const second = pipe();
    expect(second.readEnd.fd).toBe(number);
    const fresh = pollFd(second.readEnd.fd);
    const ready = fresh.wait("read");
    stale.release();
    writeSync(second.writeEnd.fd, "x");
    await ready;
    fresh.release();
    second.readEnd.close();
    for (const end of [first.writeEnd, second.writeEnd]) end.close();
  });

  test("both directions of one descriptor, and one of them cancelled", async () => {
    const { master, terminal } = openPty();
    const polled = pollFd(master.fd);
    const read = polled.wait("read");
    await polled.wait("write");
    writeSync(terminal.fd, "x");
    await read;
    readSync(master.fd, new Uint8Array(10));
    const cancelled = polled.wait("read").catch((error: unknown) => error);
    polled.cancel("read", new Error("enough"));
    expect(await cancelled).toMatchObject({ message: "enough" });
    polled.release();
    master.close();
    terminal.close();
  });
});

describe("pty", () => {
  test("has a path and a size, and tells its programs about a new one", async () => {
    const { master, terminal, path } = openPty();
    expect(path).toMatch(/^\/dev\/pts\/\d+$/);
    expect(ptyPath(master.fd)).toBe(path);
    expect([isTerminal(master.fd), isTerminal(terminal.fd)]).toEqual([true, true]);
    setWindowSize(master.fd, { rows: 24, columns: 80 });
    const child = spawnProcess({
      argv: ["setsid", "-c", "sh", "-c", "trap 'stty size; exit 0' WINCH; stty size; while :; do sleep 0.05; done"],
      stdio: [terminal.fd, terminal.fd, terminal.fd],
    });
    terminal.close();
    using reader = new FdReader(master);
    expect(Buffer.from((await reader.read()) ?? "").toString()).toBe("24 80\r\n");
    setWindowSize(reader.fd, { rows: 50, columns: 132 });
    expect(getWindowSize(reader.fd)).toEqual({ rows: 50, columns: 132 });
    expect(Buffer.from((await reader.read()) ?? "").toString()).toBe("50 132\r\n");
    expect(await reader.read()).toBeNull();
    expect(await child.exited).toEqual({ kind: "exited", code: 0 });
    expect(() => setWindowSize(reader.fd, { rows: -1, columns: 1 })).toThrow("set window size to -1x1");
  });

  test("raw mode passes every byte and is taken back", async () => {
    const { master, terminal } = openPty();
    const stty = (): Promise<string> => runOrThrow(["stty", "-g"], { stdin: terminal.fd });
    const before = await stty();
    using reader = new FdReader(dup(terminal.fd));
    {
      using raw = makeRaw(terminal.fd);
      expect(await stty()).not.toBe(before);
      writeSync(master.fd, new Uint8Array([3, 4, 13, 26, 127]));
      expect(await reader.read()).toEqual(new Uint8Array([3, 4, 13, 26, 127]));
      raw.restore();
    }
    expect(await stty()).toBe(before);
    const gone = makeRaw(terminal.fd);
    master.close();
    gone.restore();
    terminal.close();
    expect(() => makeRaw(asFd(1_000_000))).toThrow("EBADF");
  });
});

describe("namespace", () => {
  test("a step runs in another network, and we are back after it, also when it fails", async () => {
    const name = `hearth-${crypto.randomUUID().slice(0, 8)}`;
    const path = `/run/netns/${name}`;
    await runOrThrow(["ip", "netns", "add", name]);
    try {
      const own = namespaceName("/proc/thread-self/ns/net");
      expect(isOwnNetns(path)).toBe(false);
      expect(inNetns(path, () => isOwnNetns(path))).toBe(true);
      expect(() =>
        inNetns(path, () => {
          throw new Error("step failed");
        }),
      ).toThrow("step failed");
      expect(namespaceName("/proc/thread-self/ns/net")).toBe(own);
      expect(`net:[${namespaceInode("/proc/self/ns/net")}]`).toBe(own);
    } finally {
      await runOrThrow(["ip", "netns", "del", name]);
    }
    expect(() => inNetns(path, () => {})).toThrow("ENOENT");
  });
});

describe("clock and random pool", () => {
  test("clocks are read to the nanosecond and the time of day can be set", () => {
    const now = clockNanoseconds("realtime");
    expect(Math.abs(Number(now / 1_000_000n) - Date.now())).toBeLessThan(1000);
    const awake = clockNanoseconds("monotonic");
    expect(clockNanoseconds("boottime")).toBeGreaterThanOrEqual(awake);
    setRealtime(clockNanoseconds("realtime"));
    expect(Math.abs(Number(clockNanoseconds("realtime") - now))).toBeLessThan(1_000_000_000);
  });

  test("the pool takes a seed and refuses none", () => {
    reseedKernelRandom(crypto.getRandomValues(new Uint8Array(64)));
    expect(() => reseedKernelRandom(new Uint8Array(0))).toThrow("1 to 512");
    expect(() => reseedKernelRandom(new Uint8Array(513))).toThrow("1 to 512");
  });
});
