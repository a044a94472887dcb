/** How long to wait after failures in a row. */
import { assert } from "../errors.ts";

export interface BackoffRange {
  /** Milliseconds after the first failure. */
  readonly minMs: number;
  readonly maxMs: number;
}

/** Doubles from `minMs` with each failure (1 or more in a row), up to `maxMs`. */
export function backoffMs(failures: number, range: BackoffRange): number {
  assert(failures >= 1, `${failures} failures`);
  // Beyond 2^30 the product is over any maximum anyway, and 2 ** n would become infinite.
  return Math.min(range.maxMs, range.minMs * 2 ** Math.min(failures - 1, 30));
}
