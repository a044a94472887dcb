/** Feeds systemd's watchdog as long as the server answers; a hung event loop or a server that answers nobody starves it. */
import { describeError } from "../errors.ts";
import type { Log } from "../log.ts";

/** Pings within one watchdog time: a check that fails or is late once does not cost the service. */
const CHECKS_PER_TIMEOUT = 4;

export interface WatchdogOptions {
  /** Milliseconds without a ping after which systemd ends the service. */
  readonly timeoutMs: number;
  /** Rejects when the server does not answer within the milliseconds. */
  readonly check: (timeoutMs: number) => Promise<unknown>;
  readonly ping: () => void;
  readonly log: Log;
}

/** Runs until it is disposed; checks never overlap. */
export function startWatchdog({ timeoutMs, check, ping, log }: WatchdogOptions): Disposable {
  const intervalMs = Math.max(1, Math.floor(timeoutMs / CHECKS_PER_TIMEOUT));
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isOver = false;
  const turn = async (): Promise<void> => {
    try {
      await check(intervalMs);
      if (!isOver) ping();
    } catch (thrown) {
      if (!isOver) log.warn("watchdog not fed", { error: describeError(thrown) });
    }
    if (!isOver) timer = setTimeout(() => void turn(), intervalMs);
  };
  void turn();
  return {
    [Symbol.dispose]: () => {
      isOver = true;
      clearTimeout(timer);
    },
  };
}
