/** Event-driven writing to any descriptor: pipes, fifos, terminals, pty masters, sockets, devices, regular files. */
import { HearthError, SystemError } from "../errors.ts";
import { FD_CALLS_PER_TURN_MAX } from "../limits.ts";
import { type Fd, type OwnedFd, shutdownSocket } from "./fd.ts";
import { type FdMode, isReady, prepareFd } from "./fd-mode.ts";
import { lastErrno, lazyLibc } from "./libc.ts";
import { type PolledFd, pollFd } from "./readiness.ts";

const libc = lazyLibc({
  write: { args: ["i32", "ptr", "u64"], returns: "i64" },
  send: { args: ["i32", "ptr", "u64", "i32"], returns: "i64" },
});

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
/** poll(2) promises room for this much and no more. Source: pipe(7). */
const PIPE_BUF = 4096;

/** Writes to one descriptor, which it owns. Nothing is buffered: `write` resolves when the kernel has taken all. */
export class FdWriter implements Disposable {
  readonly #owned: OwnedFd;
  readonly #fd: Fd;
  readonly #mode: FdMode;
  #polled: PolledFd | undefined;
  #last: Promise<void> = Promise.resolve();
  #closed = false;
  #callsThisTurn = 0;

  /** Takes over the descriptor: it may be made non-blocking or be opened anew under the same number (see prepareFd). */
  constructor(owned: OwnedFd, mode: FdMode = prepareFd(owned.fd)) {
    this.#owned = owned;
    this.#fd = owned.fd;
    this.#mode = mode;
  }

  get fd(): Fd {
    return this.#fd;
  }

  get isOpen(): boolean {
    return !this.#closed;
  }

  /**
   * Resolves when every byte was taken; `data` must not change until then. Writes are done in the order of the calls.
   * A reader that has gone is a SystemError EPIPE (pipe, socket) or EIO (terminal); after any error later writes fail.
   */
  write(data: Uint8Array, signal?: AbortSignal): Promise<void> {
    const done = this.#last.then(() => this.#writeAll(data, signal));
    this.#last = done;
    // A failed write fails those queued behind it: bytes in the middle of the stream would be missing.
    done.catch(() => undefined);
    return done;
  }

  /**
   * Resolves when nobody can read any more what is written; for a file that is never. Rejects when `close` is called or
   * `signal` aborts.
   */
  async readerGone(signal?: AbortSignal): Promise<void> {
    if (this.#closed) throw this.#closedError();
    this.#polled ??= pollFd(this.#fd);
    await this.#polled.wait("hang-up", signal);
  }

  /** Closes after what was written so far, and the other side reads the end: a socket may still be open for reading. */
  async end(): Promise<void> {
    await this.#last.catch(() => undefined);
    if (!this.#closed && this.#mode === "socket") shutdownSocket(this.#fd, "write");
    this.close();
  }

  /** Idempotent. Pending writes reject; part of their bytes may have been written. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#polled?.cancel("write", this.#closedError());
    this.#polled?.cancel("hang-up", this.#closedError());
    this.#polled?.release();
    this.#owned.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #writeAll(data: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    for (let at = 0; at < data.length; ) {
      if (this.#closed) throw this.#closedError();
      signal?.throwIfAborted();
      if (this.#callsThisTurn >= FD_CALLS_PER_TURN_MAX) {
        this.#callsThisTurn = 0;
        await new Promise<void>((resolve) => setImmediate(resolve));
        continue;
      }
      const count = this.#writeSome(at === 0 ? data : data.subarray(at));
      at += count;
      if (count > 0) continue;
      this.#callsThisTurn = 0;
      this.#polled ??= pollFd(this.#fd);
      await this.#polled.wait("write", signal);
    }
  }

  /** Bytes taken now, 0 when none can be. */
  #writeSome(data: Uint8Array): number {
    this.#callsThisTurn++;
    for (;;) {
      let count: number;
      if (this.#mode === "socket") {
        count = Number(libc().send(this.#fd, data, BigInt(data.length), MSG_DONTWAIT | MSG_NOSIGNAL));
      } else if (this.#mode === "polled") {
        if (!isReady(this.#fd, "write")) return 0;
        count = Number(libc().write(this.#fd, data, BigInt(Math.min(data.length, PIPE_BUF))));
      } else {
        count = Number(libc().write(this.#fd, data, BigInt(data.length)));
      }
      if (count >= 0) return count;
      const errno = lastErrno();
      if (errno === "EAGAIN") return 0;
      if (errno !== "EINTR") throw new SystemError(errno, `write file descriptor ${this.#fd}`);
    }
  }

  #closedError(): HearthError {
    return new HearthError("cancelled", `write file descriptor ${this.#fd}: closed`);
  }
}
