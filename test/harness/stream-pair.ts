/** Two ends of a byte stream in memory, with back-pressure and any chunking, for codec and RPC tests. */
import { HearthError } from "../../src/errors.ts";
import type { ByteStream } from "../../src/sys/byte-stream.ts";

export interface MemoryStream extends ByteStream {
  /** The connection breaks under both ends: reads and writes reject with this. */
  breakWith(error: Error): void;
  /** While true, reads of this end find nothing, so that the other end's writes stay pending. */
  paused: boolean;
}

/** `chunkBytes` is how much one read returns at most. */
export function streamPair(chunkBytes = 64 * 1024): readonly [MemoryStream, MemoryStream] {
  const left = new Half(chunkBytes);
  const right = new Half(chunkBytes);
  left.peer = right;
  right.peer = left;
  return [left, right];
}

interface QueuedWrite {
  data: Uint8Array;
  resolve: () => void;
  reject: (error: Error) => void;
}

class Half implements MemoryStream {
  peer: Half | undefined;
  readonly closed: Promise<void>;
  readonly #chunkBytes: number;
  readonly #incoming: QueuedWrite[] = [];
  readonly #markClosed: () => void;
  #reader: { resolve: (chunk: Uint8Array | null) => void; reject: (error: Error) => void } | undefined;
  #ended = false;
  #failure: Error | undefined;
  #paused = false;

  constructor(chunkBytes: number) {
    this.#chunkBytes = chunkBytes;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#markClosed = resolve;
  }

  get paused(): boolean {
    return this.#paused;
  }

  set paused(value: boolean) {
    this.#paused = value;
    this.#serveReader();
  }

  read(): Promise<Uint8Array | null> {
    if (this.#reader !== undefined) throw new Error("two reads at once");
    return new Promise((resolve, reject) => {
      this.#reader = { resolve, reject };
      this.#serveReader();
    });
  }

  write(data: Uint8Array): Promise<void> {
    const peer = this.peer;
    if (this.#failure !== undefined || peer === undefined) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      if (peer.#ended || peer.#failure !== undefined) {
        reject(new HearthError("unavailable", "peer has gone"));
        return;
      }
      peer.#incoming.push({ data: data.slice(), resolve, reject });
      peer.#serveReader();
    });
  }

  endWrite(): void {
    const peer = this.peer;
    if (peer === undefined) return;
    peer.#ended = true;
    peer.#serveReader();
  }

  close(): void {
    this.endWrite();
    this.#fail(new HearthError("cancelled", "stream closed"));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  breakWith(error: Error): void {
    this.#fail(error);
    const peer = this.peer;
    if (peer !== undefined) peer.#fail(error);
  }

  #fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#reader?.reject(error);
    this.#reader = undefined;
    for (const write of this.#incoming.splice(0)) write.reject(error);
    this.#markClosed();
  }

  #serveReader(): void {
    const reader = this.#reader;
    if (reader === undefined) return;
    if (this.#failure !== undefined) {
      this.#reader = undefined;
      reader.reject(this.#failure);
      return;
    }
    if (this.#paused) return;
    const [first] = this.#incoming;
    if (first === undefined) {
      if (!this.#ended) return;
      this.#reader = undefined;
      reader.resolve(null);
      return;
    }
    const chunk = first.data.subarray(0, this.#chunkBytes);
    first.data = first.data.subarray(chunk.length);
    if (first.data.length === 0) {
      this.#incoming.shift();
      first.resolve();
    }
    this.#reader = undefined;
    reader.resolve(chunk);
  }
}
