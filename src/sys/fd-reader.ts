/** Event-driven reading of any descriptor: pipes, fifos, terminals, pty masters, sockets, devices, regular files. */
import { HearthError, SystemError } from "../errors.ts";
import { FD_CALLS_PER_TURN_MAX, FD_READ_BYTES_DEFAULT } from "../limits.ts";
import type { Fd, OwnedFd } from "./fd.ts";
import { type FdMode, isReady, prepareFd } from "./fd-mode.ts";
import { lastErrno, lazyLibc } from "./libc.ts";
import { type PolledFd, pollFd } from "./readiness.ts";

const libc = lazyLibc({
  read: { args: ["i32", "ptr", "u64"], returns: "i64" },
  recv: { args: ["i32", "ptr", "u64", "i32"], returns: "i64" },
});

const MSG_DONTWAIT = 0x40;

/** Reads one descriptor, which it owns. Nothing is read ahead: who does not call `read` holds the writer back. */
export class FdReader implements Disposable {
  readonly #owned: OwnedFd;
  readonly #fd: Fd;
  readonly #mode: FdMode;
  #polled: PolledFd | undefined;
  #scratch: Uint8Array = new Uint8Array(0);
  #reading = false;
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

  /**
   * The next bytes, 1 to `max` of them, as soon as there are any; null at the end of the file. A pty whose terminal
   * side was closed by everybody is at its end too, and a connection that was reset. Rejects when `close` is called meanwhile or `signal` aborts;
   * no byte is lost then.
   */
  async read(max: number = FD_READ_BYTES_DEFAULT, signal?: AbortSignal): Promise<Uint8Array | null> {
    if (this.#reading)
      throw new HearthError("internal", `read file descriptor ${this.#fd}: another read is outstanding`);
    this.#reading = true;
    try {
      for (;;) {
        this.#throwIfClosed();
        signal?.throwIfAborted();
        if (this.#callsThisTurn >= FD_CALLS_PER_TURN_MAX) await this.#nextTurn();
        this.#throwIfClosed();
        const result = this.readAvailable(max);
        if (result !== "again") return result;
        this.#callsThisTurn = 0;
        this.#polled ??= pollFd(this.#fd);
        await this.#polled.wait("read", signal);
      }
    } finally {
      this.#reading = false;
    }
  }

  /** As `read`, but "again" instead of waiting when there is nothing yet. */
  readAvailable(max: number = FD_READ_BYTES_DEFAULT): Uint8Array | null | "again" {
    this.#throwIfClosed();
    if (this.#scratch.length < max) this.#scratch = new Uint8Array(max);
    this.#callsThisTurn++;
    for (;;) {
      if (this.#mode === "polled" && !isReady(this.#fd, "read")) return "again";
      const count =
        this.#mode === "socket"
          ? Number(libc().recv(this.#fd, this.#scratch, BigInt(max), MSG_DONTWAIT))
          : Number(libc().read(this.#fd, this.#scratch, BigInt(max)));
      if (count > 0) return this.#take(count);
      if (count === 0) return null;
      const errno = lastErrno();
      if (errno === "EAGAIN") return "again";
      // A pty master says EIO when nobody holds the terminal side, a terminal when its master was closed.
      if (errno === "EIO" && this.#mode !== "file") return null;
      // The peer has gone before it read all that was sent to it: what it had sent itself came before.
      if (errno === "ECONNRESET") return null;
      if (errno !== "EINTR") throw new SystemError(errno, `read file descriptor ${this.#fd}`);
    }
  }

  /** Little is copied out of the buffer; one that is well filled is given away, and the next read makes another. */
  #take(count: number): Uint8Array {
    if (count < this.#scratch.length / 2) return this.#scratch.slice(0, count);
    const taken = this.#scratch.subarray(0, count);
    this.#scratch = new Uint8Array(0);
    return taken;
  }

  /** Idempotent. A pending read rejects. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#polled?.cancel("read", this.#closedError());
    this.#polled?.release();
    this.#owned.close();
    // Whoever keeps the closed reader need not keep its buffer.
    this.#scratch = new Uint8Array(0);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** A source that always has more would keep the event loop in this microtask queue for ever. */
  async #nextTurn(): Promise<void> {
    this.#callsThisTurn = 0;
    await new Promise<void>((resolve) => setImmediate(resolve));
  }

  #throwIfClosed(): void {
    if (this.#closed) throw this.#closedError();
  }

  #closedError(): HearthError {
    return new HearthError("cancelled", `read file descriptor ${this.#fd}: closed`);
  }
}
