/**
 * An idle VM needs neither the kernel it was loaded from nor most of the image; what it needs of them is in the page cache.
 * Nobody waits for its giving them back: a claim that comes meanwhile puts an end to it.
 */
import { describeError } from "../errors.ts";
import type { Log } from "../log.ts";
import { pageOutFiles } from "../sys/memory.ts";
import type { ProcessIdentity } from "../sys/process-identity.ts";

export class IdleEconomies {
  readonly #processes: readonly ProcessIdentity[];
  readonly #isIdle: () => boolean;
  readonly #log: Log;
  #running = false;

  constructor(processes: readonly ProcessIdentity[], isIdle: () => boolean, log: Log) {
    this.#processes = processes;
    this.#isIdle = isIdle;
    this.#log = log;
  }

  /** The VM was paused: a guest that has run has taken pages of the files. */
  async begin(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    try {
      for (const process of this.#processes) await pageOutFiles(process, this.#isIdle);
      if (this.#isIdle()) Bun.gc(true);
    } catch (error) {
      this.#log.debug("memory not given back", { error: describeError(error) });
    } finally {
      this.#running = false;
    }
  }
}
