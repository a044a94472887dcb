/**
 * The agent's side of the descriptors that a process gets beside its standard streams: the other end of a pipe, or of a pair
 * of sockets where the process both reads and writes.
 */
import { HearthError } from "../../errors.ts";
import { closeInThread } from "../../sys/call-thread.ts";
import { type FdUse, READS, WRITES } from "../../sys/carried-fd.ts";
import { dup, type Fd, type OwnedFd, pipe, shutdownSocket, socketpair } from "../../sys/fd.ts";
import { isHungUp } from "../../sys/fd-mode.ts";
import { FdReader } from "../../sys/fd-reader.ts";
import { FdWriter } from "../../sys/fd-writer.ts";
import { PipeReader } from "../../sys/pipe-reader.ts";
import { PipeWriter } from "../../sys/pipe-writer.ts";
import { InputStream, OutputStream, type StreamReader, type StreamWriter } from "./stdio.ts";

/** The first after the standard streams. */
const FIRST = 3;
const NO_BYTES = new Uint8Array(0);

/** What a read gave: bytes, or the end. */
export interface PreservedRead {
  readonly data: Uint8Array;
  readonly eof: boolean;
  /** With `eof`: the process has closed the descriptor, or has ended. Without, it may still read. */
  readonly closed: boolean;
}

/** Our ends, which the stream owns: those that the process's use of the descriptor asks for. */
interface Ends {
  /** For what the process reads. */
  readonly writer: StreamWriter | undefined;
  /** For what it writes. */
  readonly reader: StreamReader | undefined;
}

/** One descriptor of a process. */
export class PreservedStream implements Disposable {
  readonly #name: string;
  readonly #ends: Ends;
  readonly #input: InputStream | undefined;
  readonly #output: OutputStream | undefined;
  #processEnded = false;

  constructor(ends: Ends, name: string) {
    this.#name = name;
    this.#ends = ends;
    this.#input = ends.writer && new InputStream(ends.writer, name);
    this.#output = ends.reader && new OutputStream(ends.reader);
  }

  /** As InputStream's. */
  write(data: Uint8Array, signal: AbortSignal): Promise<void> {
    return this.#input?.write(data, signal) ?? Promise.reject(this.#unused("write"));
  }

  /** As InputStream's. */
  closeAfterWrites(signal: AbortSignal): Promise<void> {
    return this.#input?.closeAfterWrites(signal) ?? Promise.reject(this.#unused("end"));
  }

  /** The next 1 to `max` bytes, or the end; where the process only reads, that it no longer does. */
  async read(max: number, signal: AbortSignal): Promise<PreservedRead> {
    const data = this.#output === undefined ? await this.#unread(signal) : await this.#output.read(max, signal);
    if (data !== null) return { data, eof: false, closed: false };
    return { data: NO_BYTES, eof: true, closed: this.#isClosed() };
  }

  /** Whoever still writes to it gets EPIPE. Idempotent. */
  closeOutput(): void {
    const { reader, writer } = this.#ends;
    if (this.#output === undefined || reader === undefined || this.#output.ended) return;
    // The other half of a socket stays open.
    if (writer !== undefined) shutdownSocket(reader.fd, "read");
    this.#output.close();
  }

  processEnded(): void {
    this.#processEnded = true;
    this.#input?.close();
    this.#output?.processEnded();
  }

  /** All that the process wrote to it has been read. */
  get ended(): boolean {
    return this.#output?.ended ?? true;
  }

  [Symbol.dispose](): void {
    this.#input?.close();
    this.#output?.close();
  }

  async #unread(signal: AbortSignal): Promise<null> {
    try {
      await this.#ends.writer?.readerGone(signal);
    } catch {
      // Closed by us: there is nobody left to watch.
      signal.throwIfAborted();
    }
    return null;
  }

  #isClosed(): boolean {
    const { reader, writer } = this.#ends;
    if (this.#processEnded || reader === undefined || writer === undefined) return true;
    return writer.isOpen && isHungUp(writer.fd);
  }

  #unused(verb: string): HearthError {
    return new HearthError("failed-precondition", `${verb} ${this.#name}: the process does not read it`);
  }
}

/** All of them that one process has. */
export class PreservedStreams implements Disposable {
  readonly #streams: readonly PreservedStream[];
  readonly #name: string;

  constructor(streams: readonly PreservedStream[], name: string) {
    this.#streams = streams;
    this.#name = name;
  }

  /** By its number in the process. */
  at(descriptor: number): PreservedStream {
    const stream = this.#streams[descriptor - FIRST];
    if (stream !== undefined) return stream;
    throw new HearthError("not-found", `use descriptor ${descriptor} of ${this.#name}: it was not given one`);
  }

  processEnded(): void {
    for (const stream of this.#streams) stream.processEnded();
  }

  get ended(): boolean {
    return this.#streams.every((stream) => stream.ended);
  }

  [Symbol.dispose](): void {
    for (const stream of this.#streams) stream[Symbol.dispose]();
  }
}

/** Both ends of all of them, until crun has the process's. */
export interface OpenedStreams extends Disposable {
  readonly forCrun: readonly Fd[];
  /** Gives away our ends; disposing closes the process's, which crun has inherited. */
  adopt(): PreservedStreams;
}

/** `name` is the process's, for messages. */
export function openPreservedStreams(uses: readonly FdUse[], name: string): OpenedStreams {
  using theirs = new DisposableStack();
  using ours = new DisposableStack();
  const forCrun: Fd[] = [];
  const streams = uses.map((use, index) => {
    const { inner, ends } = openEnds(use);
    theirs.defer(() => closeInThread(inner));
    forCrun.push(inner.fd);
    return ours.use(new PreservedStream(ends, `descriptor ${FIRST + index} of ${name}`));
  });
  const [keptTheirs, keptOurs] = [theirs.move(), ours.move()];
  return {
    forCrun,
    adopt: () => {
      keptOurs.move();
      return new PreservedStreams(streams, name);
    },
    [Symbol.dispose]: () => {
      keptTheirs.dispose();
      if (!keptOurs.disposed) keptOurs.dispose();
    },
  };
}

function openEnds(use: FdUse): { readonly inner: OwnedFd; readonly ends: Ends } {
  if (use === READS) {
    const { readEnd, writeEnd } = pipe({ nonBlockingWrite: true });
    return { inner: readEnd, ends: { writer: new PipeWriter(writeEnd), reader: undefined } };
  }
  if (use === WRITES) {
    const { readEnd, writeEnd } = pipe({ nonBlockingRead: true });
    return { inner: writeEnd, ends: { writer: undefined, reader: new PipeReader(readEnd) } };
  }
  const [ours, inner] = socketpair();
  return { inner, ends: { writer: new FdWriter(dup(ours.fd)), reader: new FdReader(ours) } };
}
