/** Standard input and output of one process in a container, kept by the agent: pipes, or the master of a terminal. */
import { HearthError, SystemError } from "../../errors.ts";
import { CRUN_LOG_BYTES_MAX, STDIO_PIPE_BYTES, STREAM_CHUNK_BYTES_MAX } from "../../limits.ts";
import { closeInThread } from "../../sys/call-thread.ts";
import { dup, type OwnedFd, pipe, setPipeCapacity } from "../../sys/fd.ts";
import { FdReader } from "../../sys/fd-reader.ts";
import { FdWriter } from "../../sys/fd-writer.ts";
import { PipeReader } from "../../sys/pipe-reader.ts";
import { PipeWriter } from "../../sys/pipe-writer.ts";
import { setWindowSize, type WindowSize } from "../../sys/pty.ts";
import { withDeadline } from "../../util/wait.ts";
import type { CrunStdio } from "./crun.ts";

/** A pipe's end is used by a thread only: a process can lock the pipe (see sys/pipe-end.ts). Terminals and sockets it cannot. */
export type StreamReader = FdReader | PipeReader;
export type StreamWriter = FdWriter | PipeWriter;

/** Something else in place of what came first; undefined leaves it as it is, null asks for more of it. */
export type Translate<T> = (first: T) => T | undefined | null;

/**
 * Reads what a process writes. Nothing is read ahead, so a client that does not read stops the process.
 *
 * The end of the stream is the end of the file, or, when the process has ended and somebody it left behind still holds
 * the pipe, the moment when everything written so far has been read. What such a left-over writes afterwards is read
 * and dropped, so that it neither blocks nor dies of SIGPIPE.
 */
export class OutputStream {
  readonly #reader: StreamReader;
  #last: Promise<unknown> = Promise.resolve();
  /** Given back by a read whose caller had gone. */
  #returned: Uint8Array | undefined;
  #processEnded = false;
  #wake: (() => void) | undefined;
  #ended = false;
  #translate: Translate<Uint8Array> | undefined;
  /** What came first, of which there is more to come. */
  #begun: Uint8Array | undefined;
  /** What comes now has been translated already. */
  #translated = false;

  constructor(reader: StreamReader) {
    this.#reader = reader;
  }

  /** The next 1 to `max` bytes, null at the end. Calls are served in turn. No byte is lost when `signal` aborts. */
  read(max: number, signal: AbortSignal): Promise<Uint8Array | null> {
    const wanted = max <= 0 ? STREAM_CHUNK_BYTES_MAX : Math.min(max, STREAM_CHUNK_BYTES_MAX);
    const turn = this.#last.then(() => this.#readNow(wanted, signal));
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  /** `translate` gets the first bytes: what it returns takes the place of all that is written. */
  beginWith(translate: Translate<Uint8Array>): void {
    this.#translate = translate;
  }

  /** From now on an empty pipe is the end. */
  processEnded(): void {
    this.#processEnded = true;
    this.#wake?.();
  }

  /** The end has been read. */
  get ended(): boolean {
    return this.#ended;
  }

  close(): void {
    this.#ended = true;
    this.#reader.close();
  }

  async #readNow(max: number, signal: AbortSignal): Promise<Uint8Array | null> {
    signal.throwIfAborted();
    const returned = this.#takeReturned(max);
    if (returned !== undefined) return returned;
    while (!this.#ended) {
      const most = this.#translate === undefined ? max : STREAM_CHUNK_BYTES_MAX;
      const chunk = await (this.#processEnded ? this.#available(most, signal) : this.#wait(most, signal));
      if (chunk === "woken") continue;
      if (chunk === "again" || chunk === null) {
        this.#end(chunk === "again");
        this.#returned = this.#begun && (this.#translate?.(this.#begun) ?? this.#begun);
        this.#begun = undefined;
        return this.#takeReturned(max) ?? null;
      }
      if (this.#translated) continue;
      this.#returned = this.#orTranslation(chunk);
      signal.throwIfAborted();
      if (this.#returned === undefined) continue;
      return this.#takeReturned(max) ?? null;
    }
    return null;
  }

  /** Undefined while there is more to come before it can be told. */
  #orTranslation(chunk: Uint8Array): Uint8Array | undefined {
    if (this.#translate === undefined) return chunk;
    const first = this.#begun === undefined ? chunk : Buffer.concat([this.#begun, chunk]);
    const instead = this.#translate(first);
    this.#begun = instead === null ? first : undefined;
    if (instead === null) return undefined;
    this.#translate = undefined;
    this.#translated = instead !== undefined;
    return instead ?? first;
  }

  #takeReturned(max: number): Uint8Array | undefined {
    const bytes = this.#returned;
    if (bytes === undefined) return undefined;
    this.#returned = bytes.length > max ? bytes.subarray(max) : undefined;
    return bytes.subarray(0, max);
  }

  async #available(max: number, signal: AbortSignal): Promise<Uint8Array | null | "again"> {
    try {
      return await this.#reader.readAvailable(max, signal);
    } catch (thrown) {
      if (this.#ended) return null;
      throw thrown;
    }
  }

  /** Waits for bytes; "woken" when the process ended meanwhile. */
  async #wait(max: number, signal: AbortSignal): Promise<Uint8Array | null | "woken"> {
    const stop = new AbortController();
    const onAbort = (): void => stop.abort(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    this.#wake = () => stop.abort(WOKEN);
    try {
      return await this.#reader.read(max, stop.signal);
    } catch (thrown) {
      if (thrown === WOKEN) return "woken";
      if (this.#ended) return null;
      throw thrown;
    } finally {
      this.#wake = undefined;
      signal.removeEventListener("abort", onAbort);
    }
  }

  #end(stillHeld: boolean): void {
    this.#ended = true;
    if (stillHeld) void this.#drop();
    else this.#reader.close();
  }

  async #drop(): Promise<void> {
    try {
      while ((await this.#reader.read(STREAM_CHUNK_BYTES_MAX)) !== null);
    } catch {
      // Closed with the container.
    }
    this.#reader.close();
  }
}

const WOKEN = new HearthError("internal", "the process ended while its output was read");

/** Writes what a process reads. */
export class InputStream {
  readonly #writer: StreamWriter;
  /** For messages: "standard input of process E". */
  readonly #name: string;
  #last: Promise<unknown> = Promise.resolve();
  /** No further write is accepted. */
  #closed = false;
  /** The process has ended. */
  #ended = false;

  constructor(writer: StreamWriter, name: string) {
    this.#writer = writer;
    this.#name = name;
  }

  /** Resolves when the pipe has taken every byte; a caller that gives up (`signal`) leaves the write going. */
  write(data: Uint8Array, signal: AbortSignal): Promise<void> {
    if (this.#closed) return Promise.reject(this.#gone("it is closed"));
    const done = this.#last.then(() => this.#writer.write(data));
    this.#last = done.catch(() => undefined);
    return withDeadline("write", done, { signal }).catch((thrown: unknown) => {
      const readerGone = thrown instanceof SystemError && (thrown.errno === "EPIPE" || thrown.errno === "EIO");
      throw readerGone || this.#ended ? this.#gone("nobody reads it any more") : thrown;
    });
  }

  /** The process reads the end of the file after what was written before; idempotent. */
  closeAfterWrites(signal: AbortSignal): Promise<void> {
    this.#closed = true;
    this.#last = this.#last.then(() => this.#writer.end());
    return withDeadline(
      "close",
      this.#last.then(() => undefined),
      { signal },
    );
  }

  /** The process has ended: what was not taken by then is lost. */
  close(): void {
    this.#closed = true;
    this.#ended = true;
    this.#writer.close();
  }

  #gone(why: string): HearthError {
    return new HearthError("failed-precondition", `write ${this.#name}: ${why}`);
  }
}

/** The agent's side of a process's standard streams. */
export class ProcessStdio implements Disposable {
  readonly stdin: InputStream;
  readonly stdout: OutputStream;
  /** A terminal has one output: this one is undefined then. */
  readonly stderr: OutputStream | undefined;
  readonly #terminal: StreamReader | undefined;

  constructor(stdin: StreamWriter, stdout: StreamReader, stderr: StreamReader | undefined, name: string) {
    this.stdin = new InputStream(stdin, `standard input of ${name}`);
    this.stdout = new OutputStream(stdout);
    this.stderr = stderr && new OutputStream(stderr);
    this.#terminal = stderr === undefined ? stdout : undefined;
  }

  resize(size: WindowSize): void {
    if (this.#terminal === undefined) throw new HearthError("failed-precondition", "resize terminal: there is none");
    setWindowSize(this.#terminal.fd, size);
  }

  /** Whoever still writes to standard output (1) or error (2) gets EPIPE; those of a terminal stay. Idempotent. */
  closeOutput(descriptor: 1 | 2): void {
    if (this.stderr === undefined) return;
    (descriptor === 1 ? this.stdout : this.stderr).close();
  }

  /** As for an output, of standard error or the terminal, in text; what is longer than anything of crun's is left as it is. */
  beginWith(translate: Translate<string>): void {
    const [output, lineEnd] = this.stderr === undefined ? [this.stdout, "\r\n"] : [this.stderr, "\n"];
    output.beginWith((first) => {
      if (first.length > CRUN_LOG_BYTES_MAX) return undefined;
      const instead = translate(new TextDecoder().decode(first));
      return typeof instead === "string" ? new TextEncoder().encode(instead.replaceAll("\n", lineEnd)) : instead;
    });
  }

  processEnded(): void {
    this.stdin.close();
    this.stdout.processEnded();
    this.stderr?.processEnded();
  }

  [Symbol.dispose](): void {
    this.stdin.close();
    this.stdout.close();
    this.stderr?.close();
  }
}

export function terminalStdio(master: OwnedFd, name: string): ProcessStdio {
  const writer = new FdWriter(dup(master.fd));
  return new ProcessStdio(writer, new FdReader(master), undefined, name);
}

/** Three pipes: the process's ends for crun, and ours. */
export interface StdioPipes extends Disposable {
  readonly forCrun: CrunStdio;
  /** Closes the process's ends, which crun has inherited, and gives away ours. */
  adopt(): ProcessStdio;
}

/** Real pipes, not sockets: programs open /dev/stdout and /proc/self/fd/1 again, which a socket refuses. */
export function openStdioPipes(name: string): StdioPipes {
  const stdin = pipe({ nonBlockingWrite: true });
  const stdout = pipe({ nonBlockingRead: true });
  const stderr = pipe({ nonBlockingRead: true });
  for (const { writeEnd } of [stdin, stdout]) setPipeCapacity(writeEnd.fd, STDIO_PIPE_BYTES);
  const theirs = [stdin.readEnd, stdout.writeEnd, stderr.writeEnd];
  const ours = [stdin.writeEnd, stdout.readEnd, stderr.readEnd];
  let adopted = false;
  return {
    forCrun: {
      kind: "pipes",
      stdin: stdin.readEnd.fd,
      stdout: stdout.writeEnd.fd,
      stderr: stderr.writeEnd.fd,
    },
    adopt: () => {
      adopted = true;
      theirs.forEach(closeInThread);
      return new ProcessStdio(
        new PipeWriter(stdin.writeEnd),
        new PipeReader(stdout.readEnd),
        new PipeReader(stderr.readEnd),
        name,
      );
    },
    [Symbol.dispose]: () => {
      theirs.forEach(closeInThread);
      if (!adopted) ours.forEach(closeInThread);
    },
  };
}
