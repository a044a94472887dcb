/** Writing pipes that strangers read: as FdWriter does, but no lock that they hold keeps the event loop waiting. */
import { SystemError } from "../errors.ts";
import type { Fd, OwnedFd } from "./fd.ts";
import { PipeEnd } from "./pipe-end.ts";

/** Writes to one pipe, which it owns. Nothing is buffered: `write` resolves when the kernel has taken all. */
export class PipeWriter implements Disposable {
  readonly #end: PipeEnd;
  #last: Promise<void> = Promise.resolve();

  /** The descriptor must be non-blocking. */
  constructor(owned: OwnedFd) {
    this.#end = new PipeEnd(owned, "write");
  }

  get fd(): Fd {
    return this.#end.fd;
  }

  get isOpen(): boolean {
    return this.#end.isOpen;
  }

  /**
   * Resolves when every byte was taken; `data` must not change until then. Writes are done in the order of the calls.
   * A reader that has gone is a SystemError EPIPE; after any error later writes fail.
   */
  write(data: Uint8Array): Promise<void> {
    const done = this.#last.then(() => this.#writeAll(data));
    this.#last = done;
    // A failed write fails those queued behind it: bytes in the middle of the stream would be missing.
    done.catch(() => undefined);
    return done;
  }

  /** Resolves when nobody can read any more what is written. Rejects when `close` is called or `signal` aborts. */
  async readerGone(signal?: AbortSignal): Promise<void> {
    await this.#end.wait("hang-up", signal);
  }

  /** Closes after what was written so far, and the other side reads the end. */
  async end(): Promise<void> {
    await this.#last.catch(() => undefined);
    this.close();
  }

  /** Idempotent. Pending writes reject; part of their bytes may have been written. */
  close(): void {
    this.#end.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #writeAll(data: Uint8Array): Promise<void> {
    for (let at = 0; at < data.length; ) {
      this.#end.throwIfClosed();
      if (!this.#end.isReady) {
        await this.#end.wait("ready", undefined);
        continue;
      }
      const result = await this.#end.result(this.#end.call(data.subarray(at)), undefined);
      if (typeof result === "object") throw new SystemError(result.errno, `write file descriptor ${this.fd}`);
      if (result !== "again") at += result;
    }
  }
}
