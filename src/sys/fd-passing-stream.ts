/** A unix socket stream that can also pass open descriptors, as QMP's getfd and add-fd take them. */
import { HearthError } from "../errors.ts";
import type { DeadlineOptions } from "../util/wait.ts";
import type { ByteStream } from "./byte-stream.ts";
import { dup, type Fd, type OwnedFd } from "./fd.ts";
import { connectSocket, sendFds } from "./scm.ts";
import { adoptSocket } from "./socket-stream.ts";

export interface FdPassingStream extends ByteStream {
  /** As `write`, with descriptors attached to the first byte; they stay open here too. Keeps its place among the writes. */
  writeWithFds(data: Uint8Array, fds: readonly Fd[]): Promise<void>;
}

/** Connects to `path`; errors as connectUnix. */
export async function connectPassingFds(path: string, options: DeadlineOptions = {}): Promise<FdPassingStream> {
  const socket = await connectSocket(path, options);
  // A second name of the same socket for sendmsg: Bun does not show the descriptor it owns.
  const sender = dup(socket.fd);
  try {
    return new PassingStream(await adoptSocket(socket, `socket ${path}`), sender);
  } catch (thrown) {
    sender.close();
    throw thrown;
  }
}

class PassingStream implements FdPassingStream {
  readonly closed: Promise<void>;
  readonly #stream: ByteStream;
  readonly #sender: OwnedFd;
  readonly #stop = new AbortController();
  #last: Promise<void> = Promise.resolve();

  constructor(stream: ByteStream, sender: OwnedFd) {
    this.#stream = stream;
    this.#sender = sender;
    this.closed = stream.closed;
    // The second name would keep the connection open for the peer.
    void stream.closed.then(() => this.#closeSender());
  }

  read(): Promise<Uint8Array | null> {
    return this.#stream.read();
  }

  write(data: Uint8Array): Promise<void> {
    return this.#enqueue(() => this.#stream.write(data));
  }

  writeWithFds(data: Uint8Array, fds: readonly Fd[]): Promise<void> {
    return this.#enqueue(() => {
      if (this.#stop.signal.aborted) throw this.#stop.signal.reason;
      return sendFds(this.#sender.fd, data, fds, this.#stop.signal);
    });
  }

  endWrite(): void {
    void this.#enqueue(async () => this.#stream.endWrite());
  }

  close(): void {
    this.#stream.close();
    this.#closeSender();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #enqueue(step: () => Promise<void>): Promise<void> {
    const done = this.#last.then(step);
    this.#last = done;
    done.catch(() => undefined);
    return done;
  }

  #closeSender(): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort(new HearthError("unavailable", "write socket: connection closed"));
    // The aborted send gives its registration back in a later microtask, and needs the descriptor for that.
    void this.#last.catch(() => undefined).then(() => this.#sender.close());
  }
}
