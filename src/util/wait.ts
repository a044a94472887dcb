/** Waiting with an end: a pause, and a deadline around somebody else's promise; both end early when a signal aborts. */
import { DeadlineError } from "../errors.ts";

/** Resolves after `ms` milliseconds; rejects with the signal's reason when it aborts first. Leaves no timer behind. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(signal.reason);
      return;
    }
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

export interface DeadlineOptions {
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds until a DeadlineError that names the step. Default: none. */
  readonly timeoutMs?: number | undefined;
}

/**
 * The promise's own result, or a DeadlineError naming `step` after `timeoutMs`, or the signal's reason when it aborts.
 * The work behind the promise is not stopped: who started it does that.
 */
export function withDeadline<T>(step: string, promise: Promise<T>, options: DeadlineOptions): Promise<T> {
  const { signal, timeoutMs } = options;
  if (signal === undefined && timeoutMs === undefined) return promise;
  return new Promise((resolve, reject) => {
    const finish = (settle: () => void): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      settle();
    };
    const onAbort = (): void => finish(() => reject(signal?.reason));
    const timer =
      timeoutMs === undefined
        ? undefined
        : setTimeout(() => finish(() => reject(new DeadlineError(step, timeoutMs))), timeoutMs);
    promise.then(
      (value) => finish(() => resolve(value)),
      (error) => finish(() => reject(error)),
    );
    if (signal?.aborted === true) onAbort();
    else signal?.addEventListener("abort", onAbort, { once: true });
  });
}
