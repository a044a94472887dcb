/**
 * The clock of a guest in use: it stands still while the host sleeps, and knows nothing of the host's clock being set.
 * After either it is set to the host's.
 */
import type { AgentClient } from "../agent/client/client.ts";
import { describeError } from "../errors.ts";
import { AGENT_CALL_TIMEOUT_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import { ClockJumps } from "../sys/clock-jumps.ts";
import { setGuestClock } from "./repair.ts";

export class ClockFollower implements Disposable {
  readonly #agent: AgentClient;
  readonly #log: Log;
  readonly #jumps = new ClockJumps();
  readonly #stop = new AbortController();

  /** Jumps from now on are followed, until it is disposed. */
  constructor(agent: AgentClient, log: Log) {
    this.#agent = agent;
    this.#log = log;
    void this.#follow();
  }

  [Symbol.dispose](): void {
    this.#stop.abort();
    this.#jumps[Symbol.dispose]();
  }

  async #follow(): Promise<void> {
    try {
      for (;;) {
        await this.#jumps.next(this.#stop.signal);
        await this.#set();
      }
    } catch (thrown) {
      if (!this.#stop.signal.aborted) this.#log.error("clock not followed", { error: describeError(thrown) });
    }
  }

  /** A guest that does not answer is tried again at the next jump. */
  async #set(): Promise<void> {
    const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(AGENT_CALL_TIMEOUT_MS)]);
    try {
      await setGuestClock(this.#agent, signal);
      this.#log.info("guest clock set, the host's has jumped");
    } catch (thrown) {
      if (!this.#stop.signal.aborted) this.#log.warn("guest clock not set", { error: describeError(thrown) });
    }
  }
}
