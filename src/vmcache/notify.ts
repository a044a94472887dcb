/** The pool's state in systemd's words. */
import { describeError } from "../errors.ts";
import type { SlotStatus } from "../factory/cache-slot.ts";
import type { Log } from "../log.ts";
import { clockNanoseconds } from "../sys/clock.ts";
import { sdNotify } from "../sys/sd-notify.ts";
import type { PoolEvent } from "./pool-event.ts";

export interface Notifier {
  onEvent(event: PoolEvent, slots: readonly SlotStatus[]): void;
  /** Feeds the watchdog. */
  alive(): void;
}

/** Undefined when there is no systemd to tell. A socket that cannot be written costs one warning, until it can be again. */
export function createNotifier(socketPath: string | undefined, log: Log): Notifier | undefined {
  if (socketPath === undefined || socketPath === "") return undefined;
  let isFailing = false;
  const notify = (assignments: readonly string[]): void => {
    if (assignments.length === 0) return;
    try {
      sdNotify(socketPath, assignments);
      isFailing = false;
    } catch (thrown) {
      // A queue that is full now may not be so at the next ping, without which systemd would end the service.
      if (!isFailing) log.warn("systemd not notified", { error: describeError(thrown) });
      isFailing = true;
    }
  };
  return {
    onEvent: (event, slots) => notify(assignmentsFor(event, slots)),
    alive: () => notify(["WATCHDOG=1"]),
  };
}

/** Ready means that claims are answered: the first VMs may still boot, and claims for them wait. */
export function assignmentsFor(event: PoolEvent, slots: readonly SlotStatus[]): string[] {
  const idle = slots.filter(({ state }) => state === "idle").length;
  const status = `STATUS=${idle} of ${slots.length} vms ready`;
  switch (event.kind) {
    case "listening":
      return ["READY=1", `MAINPID=${process.pid}`, status];
    case "stopping":
      // The new program says that it is ready; to systemd it is the same service.
      return event.reason === "replaced"
        ? ["RELOADING=1", `MONOTONIC_USEC=${clockNanoseconds("monotonic") / 1000n}`]
        : ["STOPPING=1"];
    case "ready":
    case "lost":
    case "handed-out":
    case "adopted":
    case "retired":
    case "drained":
    case "configured":
      return [status];
    case "config-refused":
      return [`${status}; ${event.error.message.replaceAll("\n", " ")}`];
    case "failed":
      return [`${status}; slot ${event.slot} of ${event.shape}: ${event.error.message.replaceAll("\n", " ")}`];
    case "booting":
    case "step":
    case "checked":
      return [];
  }
}
