/** Connected stream sockets of Bun as byte streams. */
import type { Socket } from "bun";
import { HearthError, SystemError, toHearthError } from "../errors.ts";
import { STREAM_READ_BUFFER_BYTES_MAX } from "../limits.ts";
import type { ByteStream } from "./byte-stream.ts";
import { type OwnedFd, setNonBlocking } from "./fd.ts";

interface PendingWrite {
  data: Uint8Array;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

interface PendingRead {
  readonly resolve: (chunk: Uint8Array | null) => void;
  readonly reject: (error: unknown) => void;
}

/** A socket of Bun whose `data` is its stream. */
export type StreamSocket = Socket<SocketStream>;

/** Made by connectUnix, listenUnix and adoptSocket only. */
export class SocketStream implements ByteStream {
  readonly closed: Promise<void>;
  readonly #name: string;
  readonly #markClosed: () => void;
  #socket: StreamSocket | undefined;
  #chunks: Uint8Array[] = [];
  #bufferedBytes = 0;
  #paused = false;
  #ended = false;
  #failure: Error | undefined;
  #isClosed = false;
  #pendingRead: PendingRead | undefined;
  #writes: PendingWrite[] = [];
  #endWanted = false;

  constructor(name: string) {
    this.#name = name;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#markClosed = resolve;
  }

  read(): Promise<Uint8Array | null> {
    if (this.#pendingRead !== undefined) {
      return Promise.reject(new HearthError("internal", `read ${this.#name}: another read is outstanding`));
    }
    const chunk = this.#chunks.shift();
    if (chunk !== undefined) {
      this.#bufferedBytes -= chunk.length;
      if (this.#paused && this.#bufferedBytes <= STREAM_READ_BUFFER_BYTES_MAX / 2) this.#resume();
      return Promise.resolve(chunk);
    }
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#ended) return Promise.resolve(null);
    if (this.#isClosed) return Promise.reject(this.#closedError("read"));
    return new Promise((resolve, reject) => {
      this.#pendingRead = { resolve, reject };
    });
  }

  write(data: Uint8Array): Promise<void> {
    if (this.#isClosed || this.#endWanted) return Promise.reject(this.#failure ?? this.#closedError("write"));
    if (data.length === 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#writes.push({ data, resolve, reject });
      if (this.#writes.length === 1) this.#flush();
    });
  }

  endWrite(): void {
    if (this.#isClosed || this.#endWanted) return;
    this.#endWanted = true;
    if (this.#writes.length === 0) this.#socket?.shutdown();
  }

  close(): void {
    this.#finish(undefined);
    this.#chunks = [];
    this.#bufferedBytes = 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /** For the socket handlers only. */
  opened(socket: StreamSocket): void {
    this.#socket = socket;
    if (this.#isClosed) socket.terminate();
  }

  /** For the socket handlers only. */
  received(chunk: Uint8Array): void {
    const waiting = this.#pendingRead;
    if (waiting !== undefined) {
      this.#pendingRead = undefined;
      waiting.resolve(chunk);
      return;
    }
    this.#chunks.push(chunk);
    this.#bufferedBytes += chunk.length;
    if (!this.#paused && this.#bufferedBytes >= STREAM_READ_BUFFER_BYTES_MAX) {
      this.#paused = true;
      this.#socket?.pause();
    }
  }

  /** For the socket handlers only: the peer will send nothing more. */
  peerEnded(): void {
    if (this.#isClosed) return;
    this.#ended = true;
    this.#settleRead();
  }

  /** For the socket handlers only. */
  drained(): void {
    this.#flush();
  }

  /** For the socket handlers only. */
  disconnected(error: Error | undefined): void {
    if (this.#isClosed) return;
    if (error === undefined) this.#ended = true;
    this.#finish(error === undefined ? undefined : toHearthError(error, `use ${this.#name}`, "unavailable"));
  }

  #resume(): void {
    this.#paused = false;
    this.#socket?.resume();
  }

  #flush(): void {
    const socket = this.#socket;
    if (socket === undefined || this.#isClosed) return;
    for (let next = this.#writes[0]; next !== undefined; next = this.#writes[0]) {
      const written = socket.write(next.data);
      if (written < 0) {
        this.#finish(new SystemError("EPIPE", `write ${this.#name}`));
        return;
      }
      if (written < next.data.length) {
        next.data = next.data.subarray(written);
        return;
      }
      this.#writes.shift();
      next.resolve();
    }
    if (this.#endWanted) socket.shutdown();
  }

  #settleRead(): void {
    const waiting = this.#pendingRead;
    if (waiting === undefined) return;
    this.#pendingRead = undefined;
    if (this.#failure !== undefined) waiting.reject(this.#failure);
    else if (this.#ended) waiting.resolve(null);
    else waiting.reject(this.#closedError("read"));
  }

  #finish(failure: Error | undefined): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#failure = failure;
    const socket = this.#socket;
    this.#socket = undefined;
    const writes = this.#writes;
    this.#writes = [];
    this.#settleRead();
    for (const write of writes) write.reject(failure ?? this.#closedError("write"));
    // Where both sides have said all, a reset would take from the peer what it has not read yet.
    if (this.#ended && this.#endWanted && writes.length === 0) socket?.end();
    else socket?.terminate();
    this.#markClosed();
  }

  #closedError(verb: string): HearthError {
    return new HearthError("unavailable", `${verb} ${this.#name}: connection closed`);
  }
}

/** Handlers of every stream socket; `data` of the socket is its stream. */
export const STREAM_HANDLERS = {
  open(socket: StreamSocket): void {
    socket.data.opened(socket);
  },
  data(socket: StreamSocket, chunk: Uint8Array): void {
    socket.data.received(chunk);
  },
  drain(socket: StreamSocket): void {
    socket.data.drained();
  },
  end(socket: StreamSocket): void {
    socket.data.peerEnded();
  },
  close(socket: StreamSocket, error?: Error): void {
    socket.data.disconnected(error);
  },
  error(socket: StreamSocket, error: Error): void {
    socket.data.disconnected(error);
  },
  binaryType: "uint8array",
} as const;

/** Handlers of a listening socket that make a stream of each connection, which `onConnection` then owns. */
export function acceptHandlers(name: string, onConnection: (stream: ByteStream, socket: StreamSocket) => void) {
  return {
    ...STREAM_HANDLERS,
    open(socket: StreamSocket): void {
      const stream = new SocketStream(name);
      socket.data = stream;
      stream.opened(socket);
      onConnection(stream, socket);
    },
  } as const;
}

/** A stream over a connected socket, which it owns from now on and makes non-blocking. */
export async function adoptSocket(owned: OwnedFd, name = `socket ${owned.fd}`): Promise<ByteStream> {
  const stream = new SocketStream(name);
  setNonBlocking(owned.fd, true);
  await Bun.connect({ fd: owned.release(), data: stream, allowHalfOpen: true, socket: STREAM_HANDLERS });
  return stream;
}
