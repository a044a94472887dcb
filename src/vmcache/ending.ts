/**
 * The end of a pool server, bounded as a whole and not by the sum of its parts: VMs that have not ended in their time are
 * killed, and what even so does not end is left behind.
 */
import { POOL_END_KILL_MS, POOL_END_TIMEOUT_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import { sleep } from "../util/wait.ts";

export class PoolEnding {
  readonly #log: Log;
  readonly #after: typeof sleep;
  readonly #kill = new AbortController();
  #ended: Promise<void> | undefined;

  /** `after`: resolves after the milliseconds, unless the signal aborts. */
  constructor(log: Log, after: typeof sleep = sleep) {
    this.#log = log;
    this.#after = after;
  }

  /** Aborts when whatever is the pool's is to be killed. */
  get kill(): AbortSignal {
    return this.#kill.signal;
  }

  /** Resolves when the work that `begin` begins has ended, POOL_END_TIMEOUT_MS later at the latest. Idempotent. */
  end(begin: () => Promise<unknown>): Promise<void> {
    this.#ended ??= this.#end(begin());
    return this.#ended;
  }

  async #end(work: Promise<unknown>): Promise<void> {
    const timers = new AbortController();
    const killing = this.#after(POOL_END_KILL_MS, timers.signal).then(() => {
      this.#log.warn("vms have not ended in time, killing them", { afterMs: POOL_END_KILL_MS });
      this.#kill.abort();
    });
    killing.catch(() => undefined);
    const leaving = this.#after(POOL_END_TIMEOUT_MS, timers.signal).then(() => false);
    leaving.catch(() => undefined);
    try {
      if (await Promise.race([work.then(() => true), leaving])) return;
      this.#log.error("vms do not end, leaving them to the next server", { afterMs: POOL_END_TIMEOUT_MS });
    } finally {
      timers.abort();
    }
  }
}
