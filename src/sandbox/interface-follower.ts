/** Keeps the VM's NICs as the interfaces of its network namespace are, whatever becomes of those. */
import { DeadlineError, describeError } from "../errors.ts";
import {
  AGENT_CALL_TIMEOUT_MS,
  INTERFACE_REST_MAX_MS,
  INTERFACE_REST_MS,
  INTERFACE_RETRIES_MAX,
  INTERFACE_RETRY_MS,
} from "../limits.ts";
import type { Log } from "../log.ts";
import type { InterfaceWatch } from "../network/interface-watch.ts";
import { withDeadline } from "../util/wait.ts";
import type { Interfaces } from "./interfaces.ts";

/**
 * Until `signal` aborts. A failure is logged, and tried again after growing pauses and at the next change; what does not
 * depend on it goes on.
 */
export async function followInterfaces(
  watch: InterfaceWatch,
  interfaces: Interfaces,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  const changes = new Changes();
  try {
    await Promise.all([join(watch, interfaces, changes, signal), settle(interfaces, changes, log, signal)]);
  } catch (thrown) {
    if (!signal.aborted) log.error("interfaces are not followed any longer", { error: describeError(thrown) });
  }
}

/** At once, so that packets of a new interface wait for the guest. */
async function join(
  watch: InterfaceWatch,
  interfaces: Interfaces,
  changes: Changes,
  signal: AbortSignal,
): Promise<never> {
  for (;;) {
    await watch.next(signal);
    // What cannot be joined is met again, and told of, when the interfaces are settled.
    await interfaces.join(within(signal)).catch(() => {});
    changes.raise();
  }
}

async function settle(interfaces: Interfaces, changes: Changes, log: Log, signal: AbortSignal): Promise<never> {
  let failures = 0;
  let told = new Set<string>();
  for (;;) {
    const retryMs = failures > 0 && failures <= INTERFACE_RETRIES_MAX ? [INTERFACE_RETRY_MS * 2 ** (failures - 1)] : [];
    const waits = [...retryMs, ...interfaces.removalsInMs];
    const changed = await changes.next(waits.length === 0 ? undefined : Math.min(...waits), signal);
    if (changed) {
      failures = 0;
      await changes.rest(signal);
    }
    const settled = await interfaces.settle(({ isUp }) => isUp, within(signal));
    signal.throwIfAborted();
    const errors = new Set(settled.failures.map(describeError));
    for (const error of errors)
      if (!told.has(error)) log.error("interfaces are not all connected as they are", { error });
    told = errors;
    failures = errors.size === 0 ? 0 : failures + 1;
  }
}

const within = (signal: AbortSignal): AbortSignal =>
  AbortSignal.any([signal, AbortSignal.timeout(AGENT_CALL_TIMEOUT_MS)]);

/** That something has changed; however often, it is told once. */
class Changes {
  #raised = false;
  #wake: () => void = () => {};

  raise(): void {
    this.#raised = true;
    this.#wake();
  }

  /** Whether there was a change since it was told last, or comes within `timeoutMs`; without that one it is waited for. */
  async next(timeoutMs: number | undefined, signal: AbortSignal): Promise<boolean> {
    if (!this.#raised) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      try {
        await withDeadline("change of interfaces", promise, { signal, timeoutMs });
      } catch (thrown) {
        if (thrown instanceof DeadlineError) return false;
        throw thrown;
      }
    }
    this.#raised = false;
    return true;
  }

  /** Until there is none for INTERFACE_REST_MS. */
  async rest(signal: AbortSignal): Promise<void> {
    const end = performance.now() + INTERFACE_REST_MAX_MS;
    while ((await this.next(INTERFACE_REST_MS, signal)) && performance.now() < end);
  }
}
