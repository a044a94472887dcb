import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdtempSync, openSync, readdirSync, readFileSync, readSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  asFd,
  dup,
  O_CREAT,
  O_NONBLOCK,
  O_RDONLY,
  O_RDWR,
  O_WRONLY,
  OwnedFd,
  openFd,
  pipe,
  socketpair,
  statusFlags,
} from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { FdStream } from "../../src/sys/fd-stream.ts";
import { FdWriter } from "../../src/sys/fd-writer.ts";
import { spawnProcess } from "../../src/sys/process.ts";
import { openPty } from "../../src/sys/pty.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { sleep } from "../../src/util/wait.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "hearth-io-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

async function readAll(reader: FdReader): Promise<string> {
  let text = "";
  for (let chunk = await reader.read(); chunk !== null; chunk = await reader.read()) text += Buffer.from(chunk);
  return text;
}

describe("FdReader", () => {
  test("pipe: data as it comes, then the end of the file", async () => {
    const { readEnd, writeEnd } = pipe();
    using reader = new FdReader(readEnd);
    const first = reader.read();
    writeSync(writeEnd.fd, "one");
    expect(Buffer.from((await first) ?? "").toString()).toBe("one");
    writeSync(writeEnd.fd, "two");
    expect(Buffer.from((await reader.read(2)) ?? "").toString()).toBe("tw");
    expect(Buffer.from((await reader.read(2)) ?? "").toString()).toBe("o");
    const end = reader.read();
    writeEnd.close();
    expect(await end).toBeNull();
    expect(await reader.read()).toBeNull();
  });

  test("what was read stays as it is when more is read, whether little or much came", async () => {
    const { readEnd, writeEnd } = pipe();
    using writer = writeEnd;
    using reader = new FdReader(readEnd);
    const sent = [1, 400, 1000, 600, 1].map((size, index) => Buffer.alloc(size, index + 1));
    const received: Uint8Array[] = [];
    for (const bytes of sent) {
      writeSync(writer.fd, bytes);
      received.push((await reader.read(1000)) ?? new Uint8Array());
    }
    expect(received.map((chunk) => Buffer.from(chunk))).toEqual(sent);
  });

  test("pty master: output, then end of file when the terminal was closed", async () => {
    const { master, terminal } = openPty();
    using reader = new FdReader(master);
    const first = reader.read();
    writeSync(terminal.fd, "hello\n");
    expect(Buffer.from((await first) ?? "").toString()).toBe("hello\r\n");
    const end = reader.read();
    terminal.close();
    expect(await end).toBeNull();
  });

  test("terminal side: input, then end of file when the master was closed", async () => {
    const { master, terminal } = openPty();
    using reader = new FdReader(terminal);
    const first = reader.read();
    writeSync(master.fd, "line\n");
    expect(Buffer.from((await first) ?? "").toString()).toBe("line\n");
    const end = reader.read();
    master.close();
    expect(await end).toBeNull();
  });

  test("fifo: waits for the writer's data", async () => {
    const path = join(dir, "fifo");
    await runOrThrow(["mkfifo", path]);
    using reader = new FdReader(openFd(path, O_RDWR | O_NONBLOCK));
    const first = reader.read();
    const child = spawnProcess({ argv: ["sh", "-c", `echo x > ${path}`] });
    expect(Buffer.from((await first) ?? "").toString()).toBe("x\n");
    await child.exited;
  });

  test("/dev/null, regular file, socket, /dev/zero", async () => {
    using nothing = new FdReader(openFd("/dev/null", O_RDONLY));
    expect(await nothing.read()).toBeNull();
    writeFileSync(join(dir, "file"), "content");
    using file = new FdReader(openFd(join(dir, "file"), O_RDONLY));
    expect(await readAll(file)).toBe("content");
    const [left, right] = socketpair();
    using socket = new FdReader(left);
    const first = socket.read();
    writeSync(right.fd, "via socket");
    expect(Buffer.from((await first) ?? "").toString()).toBe("via socket");
    right.close();
    expect(await socket.read()).toBeNull();
    using zero = new FdReader(openFd("/dev/zero", O_RDONLY));
    expect((await zero.read(10))?.length).toBe(10);
  });

  test("a socket whose peer went before it had read everything is at its end", async () => {
    const [ours, theirs] = socketpair();
    using reader = new FdReader(ours);
    await new FdWriter(dup(ours.fd)).write(Buffer.from("unread"));
    theirs.close();
    expect(await reader.read()).toBeNull();
  });

  test("close rejects a pending read, abort does too and loses nothing", async () => {
    const { readEnd, writeEnd } = pipe();
    const reader = new FdReader(readEnd);
    const stop = new AbortController();
    const aborted = reader.read(10, stop.signal);
    stop.abort(new Error("enough"));
    await expect(aborted).rejects.toThrow("enough");
    writeSync(writeEnd.fd, "kept");
    expect(Buffer.from((await reader.read()) ?? "").toString()).toBe("kept");
    const pending = reader.read();
    await expect(reader.read()).rejects.toThrow("another read is outstanding");
    reader.close();
    await expect(pending).rejects.toMatchObject({ code: "cancelled" });
    reader.close();
    await expect(reader.read()).rejects.toMatchObject({ code: "cancelled" });
    writeEnd.close();
  });

  test("an event for a closed descriptor does not reach the next owner of its number", async () => {
    for (let i = 0; i < 200; i++) {
      const old = pipe();
      const reader = new FdReader(old.readEnd);
      const number = reader.fd;
      const pending = reader.read().catch(() => "closed");
      writeSync(old.writeEnd.fd, "stale");
      reader.close();
      const fresh = pipe();
      expect(fresh.readEnd.fd).toBe(number);
      using next = new FdReader(fresh.readEnd);
      const first = next.read();
      expect(await pending).toBe("closed");
      await new Promise((resolve) => setImmediate(resolve));
      writeSync(fresh.writeEnd.fd, "fresh");
      expect(Buffer.from((await first) ?? "").toString()).toBe("fresh");
      old.writeEnd.close();
      fresh.writeEnd.close();
    }
  });

  test("leaves a shared description blocking", async () => {
    const { readEnd, writeEnd } = pipe();
    using shared = dup(readEnd.fd);
    using reader = new FdReader(readEnd);
    expect(statusFlags(reader.fd) & O_NONBLOCK).toBe(O_NONBLOCK);
    expect(statusFlags(shared.fd) & O_NONBLOCK).toBe(0);
    const first = reader.read();
    writeSync(writeEnd.fd, "x");
    expect((await first)?.length).toBe(1);
    writeEnd.close();
  });

  test("200 readers at once: all get all, none starves behind a source that never pauses", async () => {
    using zero = new FdReader(openFd("/dev/zero", O_RDONLY));
    let endless = true;
    const flood = (async () => {
      while (endless) await zero.read();
    })();
    const pipes = Array.from({ length: 200 }, () => pipe());
    const sums = pipes.map(async ({ readEnd }) => {
      using reader = new FdReader(readEnd);
      return await readAll(reader);
    });
    for (let round = 0; round < 5; round++) {
      pipes.forEach(({ writeEnd }, index) => {
        writeSync(writeEnd.fd, `${index}.${round};`);
      });
      await new Promise((resolve) => setImmediate(resolve));
    }
    for (const { writeEnd } of pipes) writeEnd.close();
    const texts = await Promise.all(sums);
    endless = false;
    await flood;
    texts.forEach((text, index) => {
      expect(text).toBe([0, 1, 2, 3, 4].map((round) => `${index}.${round};`).join(""));
    });
  });
});

describe("FdWriter", () => {
  test("100 MiB through a pipe arrive unchanged", async () => {
    const { readEnd, writeEnd } = pipe();
    using reader = new FdReader(readEnd);
    const writer = new FdWriter(writeEnd);
    const sent = createHash("sha256");
    const block = crypto.getRandomValues(new Uint8Array(65536));
    const writing = (async () => {
      for (let i = 0; i < 1600; i++) {
        block[0] = i;
        block[1] = i >> 8;
        sent.update(block);
        await writer.write(block);
      }
      writer.close();
    })();
    const got = createHash("sha256");
    let bytes = 0;
    for (let chunk = await reader.read(); chunk !== null; chunk = await reader.read()) {
      got.update(chunk);
      bytes += chunk.length;
    }
    await writing;
    expect(bytes).toBe(1600 * 65536);
    expect(got.digest("hex")).toBe(sent.digest("hex"));
  });

  test("100 MiB from and to other programs arrive unchanged", async () => {
    const input = pipe();
    const output = pipe();
    const source = spawnProcess({
      argv: ["sh", "-c", `head -c 104857600 /dev/urandom | tee ${dir}/sent`],
      stdio: ["ignore", input.writeEnd.fd],
    });
    const sink = spawnProcess({ argv: ["sh", "-c", `cat > ${dir}/got`], stdio: [output.readEnd.fd] });
    input.writeEnd.close();
    output.readEnd.close();
    using reader = new FdReader(input.readEnd);
    using writer = new FdWriter(output.writeEnd);
    for (let chunk = await reader.read(); chunk !== null; chunk = await reader.read()) await writer.write(chunk);
    writer.close();
    await Promise.all([source.exited, sink.exited]);
    expect(await runOrThrow(["cmp", `${dir}/sent`, `${dir}/got`])).toBe("");
    expect(Bun.file(`${dir}/got`).size).toBe(104857600);
  });

  test("a reader that does not read holds the writer back", async () => {
    const { readEnd, writeEnd } = pipe();
    using writer = new FdWriter(writeEnd);
    let accepted = 0;
    const writing = (async () => {
      for (;;) {
        await writer.write(new Uint8Array(4096));
        accepted += 4096;
      }
    })();
    await sleep(50);
    const before = accepted;
    expect(before).toBe(65536);
    await sleep(100);
    expect(accepted).toBe(before);
    const got = new Uint8Array(8192);
    readSync(readEnd.fd, got);
    while (accepted === before) await sleep(1);
    readEnd.close();
    await expect(writing).rejects.toMatchObject({ errno: "EPIPE", code: "unavailable" });
  });

  test("writes keep their order and later ones fail after a failed one", async () => {
    const { readEnd, writeEnd } = pipe();
    using reader = new FdReader(readEnd);
    using writer = new FdWriter(writeEnd);
    const big = new Uint8Array(300_000).fill(1);
    const first = writer.write(big);
    const second = writer.write(new Uint8Array(10).fill(2));
    let bytes: number[] = [];
    while (bytes.length < 300_010) bytes = bytes.concat([...((await reader.read()) ?? [])]);
    await Promise.all([first, second]);
    expect(bytes.slice(300_000).every((byte) => byte === 2)).toBe(true);
    const third = writer.write(new Uint8Array(1_000_000));
    const fourth = writer.write(new Uint8Array(1));
    const rejected = Promise.allSettled([third, fourth]);
    reader.close();
    expect((await rejected).map((result) => result.status)).toEqual(["rejected", "rejected"]);
  });

  test("tells when nobody can read any more, without writing", async () => {
    const ends = pipe({ nonBlockingWrite: true });
    const [ours, theirs] = socketpair();
    const pairs = [
      [new FdWriter(ends.writeEnd), ends.readEnd],
      [new FdWriter(ours), theirs],
    ] as const;
    for (const [writer, other] of pairs) {
      await writer.write(Buffer.from("never read"));
      let gone = false;
      const waiting = writer.readerGone().then(() => {
        gone = true;
      });
      // A wait of another kind, whose event comes first.
      await writer.write(Buffer.from("nor this"));
      await sleep(5);
      expect(gone).toBe(false);
      other.close();
      await waiting;
      await expect(writer.write(Buffer.from("x"))).rejects.toThrow("EPIPE");
      writer.close();
    }
    const file = new FdWriter(openFd(join(dir, "file"), O_WRONLY | O_CREAT));
    const never = file.readerGone();
    file.close();
    await expect(never).rejects.toThrow("closed");
  });

  test("the end of a socket comes after what was written, and its other half goes on", async () => {
    const [ours, theirs] = socketpair();
    const reader = new FdReader(ours);
    const writer = new FdWriter(dup(ours.fd));
    const peer = new FdReader(theirs);
    const written = writer.write(new Uint8Array(1_000_000));
    const ended = writer.end();
    expect((await readAll(peer)).length).toBe(1_000_000);
    await Promise.all([written, ended]);
    await new FdWriter(dup(theirs.fd)).write(Buffer.from("answer"));
    expect(Buffer.from((await reader.read()) ?? []).toString()).toBe("answer");
    for (const one of [reader, peer]) one.close();
  });

  test("close rejects a pending write", async () => {
    const { readEnd, writeEnd } = pipe();
    const writer = new FdWriter(writeEnd);
    const pending = writer.write(new Uint8Array(1_000_000));
    // Not expect().rejects: it runs the event loop until the promise settles, and close would never be called.
    const outcome = pending.catch((error: unknown) => error);
    await sleep(20);
    writer.close();
    expect(await outcome).toMatchObject({ code: "cancelled" });
    await expect(writer.write(new Uint8Array(1))).rejects.toMatchObject({ code: "cancelled" });
    readEnd.close();
  });

  test("/dev/null and a regular file take everything; an appending file is appended to", async () => {
    using nothing = new FdWriter(openFd("/dev/null", O_WRONLY));
    await nothing.write(new Uint8Array(1_000_000));
    const path = join(dir, "log");
    writeFileSync(path, "a\n");
    using file = new FdWriter(new OwnedFd(asFd(openSync(path, "a"))));
    await file.write(Buffer.from("b\n"));
    expect(readFileSync(path, "utf8")).toBe("a\nb\n");
  });

  test("a full pty holds the writer back until the program reads", async () => {
    const { master, terminal } = openPty();
    await runOrThrow(["stty", "raw", "-echo"], { stdin: terminal.fd });
    using writer = new FdWriter(master);
    const size = 200_000;
    const writing = writer.write(new Uint8Array(size).fill(97));
    let settled = false;
    void writing.then(() => {
      settled = true;
    });
    await sleep(50);
    expect(settled).toBe(false);
    using reader = new FdReader(terminal);
    let bytes = 0;
    while (bytes < size) bytes += (await reader.read())?.length ?? 0;
    await writing;
    expect(bytes).toBe(size);
  });
});

describe("polled mode, for a description that is shared and cannot be opened anew", () => {
  test("a fifo whose reader has gone is used as it is and reports EPIPE", async () => {
    const path = join(dir, "fifo");
    await runOrThrow(["mkfifo", path]);
    const both = openFd(path, O_RDWR);
    const lone = openFd(path, O_WRONLY);
    both.close();
    using second = new FdWriter(lone);
    expect(statusFlags(second.fd) & O_NONBLOCK).toBe(0);
    await expect(second.write(new Uint8Array(10))).rejects.toMatchObject({ errno: "EPIPE" });
  });

  test("10 MiB pass unchanged and the description stays blocking", async () => {
    const { readEnd, writeEnd } = pipe();
    using reader = new FdReader(readEnd, "polled");
    const writer = new FdWriter(writeEnd, "polled");
    const data = crypto.getRandomValues(new Uint8Array(65536));
    const writing = (async () => {
      for (let i = 0; i < 160; i++) await writer.write(data);
      writer.close();
    })();
    const got = createHash("sha256");
    for (let chunk = await reader.read(); chunk !== null; chunk = await reader.read()) got.update(chunk);
    await writing;
    const sent = createHash("sha256");
    for (let i = 0; i < 160; i++) sent.update(data);
    expect(got.digest("hex")).toBe(sent.digest("hex"));
    expect(statusFlags(reader.fd) & O_NONBLOCK).toBe(0);
  });
});

test("FdStream talks both ways over one descriptor", async () => {
  const { master, terminal } = openPty();
  await using stream = new FdStream(master);
  const child = spawnProcess({
    argv: ["sh", "-c", "stty raw -echo; echo ready; head -c 5; echo; echo done"],
    stdio: [terminal.fd, terminal.fd, terminal.fd],
    detached: true,
  });
  terminal.close();
  let text = "";
  while (!text.includes("ready")) text += Buffer.from((await stream.read()) ?? "");
  await stream.write(Buffer.from("abcde"));
  for (let chunk = await stream.read(); chunk !== null; chunk = await stream.read()) text += Buffer.from(chunk);
  expect(text.replaceAll("\r", "")).toBe("ready\nabcde\ndone\n");
  await child.exited;
});

test("nothing stays open", async () => {
  const before = readdirSync("/proc/self/fd").length;
  for (let i = 0; i < 100; i++) {
    const { readEnd, writeEnd } = pipe();
    const reader = new FdReader(readEnd);
    const writer = new FdWriter(writeEnd);
    const read = reader.read();
    await writer.write(new Uint8Array(1));
    await read;
    reader.close();
    writer.close();
    const pty = openPty();
    pty.master.close();
    pty.terminal.close();
  }
  expect(readdirSync("/proc/self/fd").length).toBe(before);
});
