/** The agent's ends of a process's pipes: what aborting, ending and closing do to bytes on their way. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { InputStream, OutputStream } from "../../src/agent/guest/stdio.ts";
import { type Pipe, pipe } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { FdWriter } from "../../src/sys/fd-writer.ts";
import { PipeReader } from "../../src/sys/pipe-reader.ts";
import { PipeWriter } from "../../src/sys/pipe-writer.ts";

const never = new AbortController().signal;
const text = (bytes: Uint8Array | null): string => (bytes === null ? "end" : Buffer.from(bytes).toString());
const bytes = (content: string): Uint8Array => new TextEncoder().encode(content);

let ends: Pipe;
beforeEach(() => {
  ends = pipe({ nonBlockingRead: true, nonBlockingWrite: true });
});
afterEach(() => {
  ends.readEnd.close();
  ends.writeEnd.close();
});

describe("output", () => {
  let writer: FdWriter;
  let output: OutputStream;
  beforeEach(() => {
    writer = new FdWriter(ends.writeEnd);
    output = new OutputStream(new PipeReader(ends.readEnd));
  });
  afterEach(() => {
    output.close();
    writer.close();
  });

  test("a read that was given up while it waited takes nothing", async () => {
    const stop = new AbortController();
    const reading = output.read(100, stop.signal).catch(() => "given up");
    stop.abort(new Error("given up"));
    expect(await reading).toBe("given up");
    await writer.write(bytes("all of it"));
    expect(text(await output.read(100, never))).toBe("all of it");
  });

  test("a read that was given up as the bytes came gives them to the next, in pieces if need be", async () => {
    await writer.write(bytes("0123456789"));
    const stop = new AbortController();
    const reading = output.read(100, stop.signal).catch(() => "given up");
    // The read has its turn in a microtask, and a thread takes the bytes then; this comes before its caller continues.
    await Promise.resolve();
    stop.abort(new Error("given up"));
    expect(await reading).toBe("given up");
    expect(text(await output.read(4, never))).toBe("0123");
    expect(text(await output.read(100, never))).toBe("456789");
  });

  test("reads are answered in turn", async () => {
    const reads = [output.read(2, never), output.read(2, never), output.read(2, never)];
    await writer.write(bytes("aabbcc"));
    expect((await Promise.all(reads)).map(text)).toEqual(["aa", "bb", "cc"]);
  });

  test("the end of the process wakes a waiting read, when the pipe is still held", async () => {
    const reading = output.read(100, never);
    output.processEnded();
    expect(text(await reading)).toBe("end");
    expect(output.ended).toBe(true);
  });

  test("what was written before the end of the process comes before the end of the stream", async () => {
    await writer.write(bytes("last words"));
    output.processEnded();
    expect(text(await output.read(4, never))).toBe("last");
    expect(text(await output.read(100, never))).toBe(" words");
    expect(text(await output.read(100, never))).toBe("end");
  });

  test("what comes first is told otherwise once enough of it has come, and the rest is not told", async () => {
    const begun = Promise.withResolvers<void>();
    output.beginWith((first) => {
      begun.resolve();
      return text(first) === "a line\n" ? bytes("other words") : null;
    });
    const reading = output.read(5, never);
    await writer.write(bytes("a li"));
    await begun.promise;
    await writer.write(bytes("ne\n"));
    expect(text(await reading)).toBe("other");
    expect(text(await output.read(100, never))).toBe(" words");
    await writer.write(bytes("more"));
    output.processEnded();
    expect(text(await output.read(100, never))).toBe("end");
  });

  test("what comes first stays as it is when no more of it comes", async () => {
    output.beginWith(() => null);
    await writer.write(bytes("a li"));
    output.processEnded();
    expect(text(await output.read(2, never))).toBe("a ");
    expect(text(await output.read(100, never))).toBe("li");
    expect(text(await output.read(100, never))).toBe("end");
  });

  test("after the end a holder of the pipe can write as much as it likes", async () => {
    output.processEnded();
    expect(text(await output.read(100, never))).toBe("end");
    await writer.write(new Uint8Array(1_000_000));
  });

  test("closing ends a waiting read", async () => {
    const reading = output.read(100, never);
    await Promise.resolve();
    output.close();
    expect(text(await reading)).toBe("end");
  });
});

describe("input", () => {
  test("the end comes after what was written, however long that takes", async () => {
    const input = new InputStream(new PipeWriter(ends.writeEnd), "standard input of process");
    const reader = new FdReader(ends.readEnd);
    const writing = input.write(new Uint8Array(500_000), never);
    const closing = input.closeAfterWrites(never);
    await expect(input.write(bytes("late"), never)).rejects.toMatchObject({ code: "failed-precondition" });
    let received = 0;
    for (let chunk = await reader.read(); chunk !== null; chunk = await reader.read()) received += chunk.length;
    expect(received).toBe(500_000);
    await Promise.all([writing, closing]);
  });

  test("a write that waits when the process ends says so", async () => {
    const input = new InputStream(new PipeWriter(ends.writeEnd), "standard input of process");
    const writing = input.write(new Uint8Array(500_000), never).catch((thrown: unknown) => thrown);
    await Bun.sleep(1);
    input.close();
    expect(await writing).toMatchObject({
      code: "failed-precondition",
      message: "write standard input of process: nobody reads it any more",
    });
  });

  test("a write that its caller gave up goes on, and those after it", async () => {
    const input = new InputStream(new PipeWriter(ends.writeEnd), "standard input of process");
    const reader = new FdReader(ends.readEnd);
    const stop = new AbortController();
    const first = input.write(new Uint8Array(200_000).fill(1), stop.signal).catch(() => "given up");
    stop.abort(new Error("given up"));
    expect(await first).toBe("given up");
    const second = input.write(new Uint8Array(10).fill(2), never);
    const received: number[] = [];
    while (received.length < 200_010) received.push(...((await reader.read()) ?? []));
    expect(received.slice(199_999, 200_001)).toEqual([1, 2]);
    await second;
    input.close();
    reader.close();
  });
});
