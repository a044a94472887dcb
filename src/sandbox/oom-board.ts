/** Hands the agent's OOM events, which name containers one by one, to those who wait for a certain container. */
import type { AgentClient } from "../agent/client/client.ts";
import { describeError } from "../errors.ts";
import { OOM_EVENTS_MAX } from "../limits.ts";
import type { Log } from "../log.ts";
import { withDeadline } from "../util/wait.ts";

export class OomBoard implements Disposable {
  readonly #agent: AgentClient;
  readonly #log: Log;
  readonly #onOom: (containerId: string) => void;
  readonly #stop = new AbortController();
  /** Events that nobody has asked for yet, by container. */
  readonly #untold = new Map<string, number>();
  readonly #waiting = new Map<string, Set<() => void>>();

  /** `onOom` is called at each event, whether somebody waits for it or not. */
  constructor(agent: AgentClient, log: Log, onOom: (containerId: string) => void) {
    this.#agent = agent;
    this.#log = log;
    this.#onOom = onOom;
    void this.#listen();
  }

  /** Resolves at the next event of the container, at once when one is untold. */
  async next(containerId: string, signal: AbortSignal): Promise<void> {
    const untold = this.#untold.get(containerId) ?? 0;
    if (untold > 0) {
      this.#untold.set(containerId, untold - 1);
      return;
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    const waiting = this.#waiting.get(containerId) ?? new Set();
    this.#waiting.set(containerId, waiting.add(resolve));
    try {
      await withDeadline("OOM event", promise, { signal });
    } finally {
      waiting.delete(resolve);
    }
  }

  [Symbol.dispose](): void {
    this.#stop.abort();
  }

  async #listen(): Promise<void> {
    try {
      for (;;) {
        const { containerId } = await this.#agent.agent.getOOMEvent({}, { signal: this.#stop.signal });
        this.#tell(containerId);
      }
    } catch (thrown) {
      if (!this.#stop.signal.aborted) this.#log.warn("oom events end", { error: describeError(thrown) });
    }
  }

  #tell(containerId: string): void {
    this.#onOom(containerId);
    const waiting = [...(this.#waiting.get(containerId) ?? [])];
    for (const resolve of waiting) resolve();
    if (waiting.length > 0) return;
    if (this.#untold.size < OOM_EVENTS_MAX) this.#untold.set(containerId, (this.#untold.get(containerId) ?? 0) + 1);
  }
}
