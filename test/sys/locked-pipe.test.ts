/** Pipes that another process keeps locked in the kernel: they keep the event loop, and other pipes, never waiting. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { CALL_THREADS_MAX } from "../../src/limits.ts";
import { closeInThread } from "../../src/sys/call-thread.ts";
import { dup, type OwnedFd, type Pipe, pipe, socketpair } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { FdWriter } from "../../src/sys/fd-writer.ts";
import { PipeReader } from "../../src/sys/pipe-reader.ts";
import { PipeWriter } from "../../src/sys/pipe-writer.ts";
import { type ChildProcess, spawnProcess } from "../../src/sys/process.ts";
import { SIGKILL } from "../../src/sys/signals.ts";
import { eventually } from "../harness/eventually.ts";

/** Source: asm/unistd_64.h. */
const SENDFILE = 40;
const SPLICE = 275;

const text = (bytes: Uint8Array | null | "again"): string => Buffer.from(bytes ?? "end").toString();
const bytesOf = (content: string): Uint8Array => new TextEncoder().encode(content);
const openPipe = (): Pipe => pipe({ nonBlockingRead: true, nonBlockingWrite: true });

let scope: AsyncDisposableStack;
beforeEach(() => {
  scope = new AsyncDisposableStack();
});
afterEach(() => scope.disposeAsync());

async function startIn(
  call: number,
  argv: readonly [string, ...string[]],
  stdin: OwnedFd,
  stdout: OwnedFd,
): Promise<ChildProcess> {
  const child = spawnProcess({ argv, stdio: [stdin.fd, stdout.fd, "ignore"] });
  scope.defer(async () => {
    child.kill(SIGKILL);
    await child.exited;
  });
  await eventually(`${argv[0]} in system call ${call}`, () =>
    readFileSync(`/proc/${child.pid}/syscall`, "utf8").startsWith(`${call} `) ? true : undefined,
  );
  return child;
}

/** A process that waits in sendfile(2) for its silent standard input, with the pipe that it writes to locked. */
async function lockWritten(writeEnd: OwnedFd): Promise<{ readonly child: ChildProcess; readonly silent: OwnedFd }> {
  const [silent, theirs] = socketpair();
  scope.use(silent);
  const child = await startIn(SENDFILE, ["busybox", "cat"], theirs, writeEnd);
  theirs.close();
  return { child, silent };
}

/** The event loop and the threads serve others. */
async function othersGetOn(): Promise<void> {
  const { readEnd, writeEnd } = openPipe();
  using reader = new PipeReader(readEnd);
  using writer = new PipeWriter(writeEnd);
  const data = new Uint8Array(300_000).fill(7);
  const writing = writer.write(data);
  let received = 0;
  while (received < data.length) received += (await reader.read())?.length ?? 0;
  await writing;
}

test("a read waits for the lock alone, and what was written before it was taken comes then", async () => {
  const { readEnd, writeEnd } = openPipe();
  writeSync(writeEnd.fd, "before ");
  const { silent } = await lockWritten(writeEnd);
  writeEnd.close();
  using reader = new PipeReader(readEnd);
  const reading = reader.read();
  await othersGetOn();
  writeSync(silent.fd, "after");
  silent.close();
  let all = text(await reading);
  while (!all.endsWith("after")) all += text(await reader.read());
  expect(all).toBe("before after");
});

test("a read that was given up while the pipe was locked gives its bytes to the next", async () => {
  const { readEnd, writeEnd } = openPipe();
  writeSync(writeEnd.fd, "before");
  const { child } = await lockWritten(writeEnd);
  writeEnd.close();
  using reader = new PipeReader(readEnd);
  const stop = new AbortController();
  const reading = reader.read(100, stop.signal).catch((thrown: unknown) => thrown);
  await othersGetOn();
  stop.abort("given up");
  expect(await reading).toBe("given up");
  child.kill(SIGKILL);
  expect(text(await reader.readAvailable(100))).toBe("before");
  expect(await reader.read()).toBeNull();
});

test("an empty locked pipe has nothing, and is waited for as any", async () => {
  const { readEnd, writeEnd } = openPipe();
  const { child } = await lockWritten(writeEnd);
  writeEnd.close();
  using reader = new PipeReader(readEnd);
  expect(await reader.readAvailable()).toBe("again");
  const reading = reader.read();
  await othersGetOn();
  child.kill(SIGKILL);
  expect(await reading).toBeNull();
});

test("closing a locked pipe ends its reader's wait at once", async () => {
  const { readEnd, writeEnd } = openPipe();
  writeSync(writeEnd.fd, "before");
  await lockWritten(writeEnd);
  const reader = new PipeReader(readEnd);
  const reading = reader.read().catch((thrown: unknown) => thrown);
  reader.close();
  closeInThread(writeEnd);
  expect(await reading).toMatchObject({ code: "cancelled" });
  await othersGetOn();
});

test("a write waits for the lock alone", async () => {
  const { readEnd, writeEnd } = openPipe();
  const [ours, theirs] = socketpair();
  scope.use(ours);
  using full = new FdWriter(dup(theirs.fd));
  const filling = full.write(new Uint8Array(4_000_000)).catch((thrown: unknown) => thrown);
  const fixture = join(import.meta.dir, "fixtures", "splice.ts");
  writeSync(writeEnd.fd, "before");
  const child = await startIn(SPLICE, [process.execPath, fixture], readEnd, theirs);
  readEnd.close();
  using writer = new PipeWriter(writeEnd);
  const writing = writer.write(bytesOf("after")).catch((thrown: unknown) => thrown);
  await othersGetOn();
  child.kill(SIGKILL);
  await child.exited;
  await writing;
  await expect(writer.write(bytesOf("more"))).rejects.toMatchObject({ errno: "EPIPE" });
  full.close();
  expect(await filling).toMatchObject({ code: "cancelled" });
});

test("more calls at once than there are threads are all answered", async () => {
  const pipes = Array.from({ length: CALL_THREADS_MAX + 40 }, openPipe);
  for (const { writeEnd } of pipes) writeSync(writeEnd.fd, "x");
  const readers = pipes.map(({ readEnd }) => new PipeReader(readEnd));
  const chunks = await Promise.all(readers.map((reader) => reader.read()));
  expect(chunks.map(text)).toEqual(pipes.map(() => "x"));
  const ends = readers.map((reader) => reader.read());
  for (const { writeEnd } of pipes) closeInThread(writeEnd);
  expect((await Promise.all(ends)).every((end) => end === null)).toBe(true);
  for (const reader of readers) reader.close();
});

test("what was closed in a thread is closed: the other end sees it", async () => {
  const { readEnd, writeEnd } = openPipe();
  using reader = new FdReader(readEnd);
  new PipeWriter(writeEnd).close();
  expect(await reader.read()).toBeNull();
});
