/**
 * One end of a pipe whose other end strangers have, who can keep us waiting: sendfile(2) or splice(2) of theirs holds the
 * pipe's lock for as long as its other side is silent. Whoever then reads, writes or closes the pipe sleeps in the kernel,
 * O_NONBLOCK or not. So a thread does that; poll(2) takes no lock. Source: fs/splice.c, splice_file_to_pipe; fs/pipe.c.
 */
import { HearthError } from "../errors.ts";
import { callInThread, closeInThread, threadCallErrno } from "./call-thread.ts";
import type { Fd, OwnedFd } from "./fd.ts";
import { isReady } from "./fd-mode.ts";
import { type PolledFd, pollFd } from "./readiness.ts";

/** What a call came to: bytes, or why there are none. */
export type PipeCallResult = number | "again" | { readonly errno: string };

export class PipeEnd {
  readonly fd: Fd;
  readonly #owned: OwnedFd;
  readonly #verb: "read" | "write";
  #polled: PolledFd | undefined;
  #call: Promise<PipeCallResult> | undefined;
  #giveUp: ((error: unknown) => void) | undefined;
  #closed = false;

  /** Takes over the descriptor, which must be non-blocking. */
  constructor(owned: OwnedFd, verb: "read" | "write") {
    this.#owned = owned;
    this.fd = owned.fd;
    this.#verb = verb;
  }

  get isOpen(): boolean {
    return !this.#closed;
  }

  throwIfClosed(): void {
    if (this.#closed) throw this.#closedError();
  }

  /** A call now would get on, were it not for the lock. */
  get isReady(): boolean {
    return isReady(this.fd, this.#verb);
  }

  /** Until a call would get on, or the other end is gone. Rejects when `close` is called or `signal` aborts. */
  async wait(interest: "ready" | "hang-up", signal: AbortSignal | undefined): Promise<void> {
    this.throwIfClosed();
    this.#polled ??= pollFd(this.fd);
    await this.#polled.wait(interest === "ready" ? this.#verb : interest, signal);
  }

  /** Reads or writes once, in a thread; one call at a time. "again" when it would have had to wait after all. */
  call(bytes: Uint8Array): Promise<PipeCallResult> {
    const call = callInThread(this.#verb, this.fd, bytes).then((returned): PipeCallResult => {
      this.#call = undefined;
      const errno = threadCallErrno(returned);
      if (errno === undefined) return returned;
      return errno === "EAGAIN" || errno === "EINTR" ? "again" : { errno };
    });
    this.#call = call;
    return call;
  }

  /** What a call comes to, for somebody who does not wait beyond `close` or the abort of `signal`. */
  async result<T>(call: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    call.then(resolve, reject);
    this.#giveUp = reject;
    const onAbort = (): void => reject(signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      return await promise;
    } finally {
      this.#giveUp = undefined;
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Idempotent. Whoever waits is rejected. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#giveUp?.(this.#closedError());
    this.#polled?.cancel(this.#verb, this.#closedError());
    this.#polled?.cancel("hang-up", this.#closedError());
    this.#polled?.release();
    const close = (): void => closeInThread(this.#owned);
    // Until the thread has made its call, the number must mean this pipe.
    if (this.#call === undefined) close();
    else void this.#call.then(close, close);
  }

  #closedError(): HearthError {
    return new HearthError("cancelled", `${this.#verb} file descriptor ${this.fd}: closed`);
  }
}
