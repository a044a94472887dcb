/** Reading pipes that strangers write to: as FdReader does, but no lock that they hold keeps the event loop waiting. */
import { SystemError } from "../errors.ts";
import { FD_READ_BYTES_DEFAULT } from "../limits.ts";
import type { Fd, OwnedFd } from "./fd.ts";
import { PipeEnd } from "./pipe-end.ts";

/** Reads one pipe, which it owns. Nothing is read ahead but by a read that was given up. */
export class PipeReader implements Disposable {
  readonly #end: PipeEnd;
  /** What a thread is reading, or has read for somebody who gave up. */
  #coming: Promise<Uint8Array | null | "again"> | undefined;
  #scratch: Uint8Array = new Uint8Array(0);

  /** The descriptor must be non-blocking. */
  constructor(owned: OwnedFd) {
    this.#end = new PipeEnd(owned, "read");
  }

  get fd(): Fd {
    return this.#end.fd;
  }

  /**
   * The next bytes as soon as there are any, null at the end of the file: `max` at most, or what a read that was given up had
   * asked for. Rejects when `close` is called meanwhile or `signal` aborts; no byte is lost then. One read at a time.
   */
  async read(max: number = FD_READ_BYTES_DEFAULT, signal?: AbortSignal): Promise<Uint8Array | null> {
    for (;;) {
      const result = await this.readAvailable(max, signal);
      if (result !== "again") return result;
      await this.#end.wait("ready", signal);
    }
  }

  /** As `read`, but "again" instead of waiting for the writer when there is nothing yet. */
  async readAvailable(max: number = FD_READ_BYTES_DEFAULT, signal?: AbortSignal): Promise<Uint8Array | null | "again"> {
    this.#end.throwIfClosed();
    signal?.throwIfAborted();
    if (this.#coming === undefined) {
      if (!this.#end.isReady) return "again";
      this.#coming = this.#readOnce(max);
    }
    const coming = this.#coming;
    const result = await this.#end.result(coming, signal);
    this.#coming = undefined;
    return result;
  }

  /** Idempotent. A pending read rejects. */
  close(): void {
    this.#end.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #readOnce(max: number): Promise<Uint8Array | null | "again"> {
    if (this.#scratch.length < max) this.#scratch = new Uint8Array(max);
    const buffer = this.#scratch;
    const result = await this.#end.call(buffer.subarray(0, max));
    if (result === "again") return result;
    if (typeof result === "object") throw new SystemError(result.errno, `read file descriptor ${this.fd}`);
    if (result === 0) return null;
    // Little is copied out of the buffer; one that is well filled is given away, and the next read makes another.
    if (result < buffer.length / 2) return buffer.slice(0, result);
    this.#scratch = new Uint8Array(0);
    return buffer.subarray(0, result);
  }
}
