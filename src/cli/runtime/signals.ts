/** A signal that ends a command ends it in order: what was begun is undone, and the exit status tells which it was. */
import { HearthError } from "../../errors.ts";
import { parseSignal } from "../../sys/signals.ts";

const ENDING_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Runs `step` with an AbortSignal that the first of the ending signals aborts. */
export async function abortable<T>(step: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const abort = new AbortController();
  const handlers = ENDING_SIGNALS.map((name) => {
    const handler = (): void =>
      abort.abort(new HearthError("cancelled", `ended by ${name}`, { exitCode: 128 + parseSignal(name) }));
    process.on(name, handler);
    return () => process.off(name, handler);
  });
  try {
    return await step(abort.signal);
  } finally {
    for (const stop of handlers) stop();
  }
}
