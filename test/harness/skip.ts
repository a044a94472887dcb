/** Skipping a test where the machine lacks something: the reason stands in its name, which the runner insists on. */
import { test } from "bun:test";

/** `test`, or `test.skip` with the reason in the name when there is one. */
export function testUnless(
  reason: string | undefined,
): (name: string, run: () => Promise<void>, timeoutMs?: number) => void {
  if (reason === undefined) return (name, run, timeoutMs) => test(name, run, timeoutMs);
  return (name, run) => test.skip(`${name} [skipped: ${reason}]`, run);
}
