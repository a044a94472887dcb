/** What a cell tells the runner, in files of its directory. */
import type { TestCase } from "./junit.ts";

export const OUTPUT_FILE = "output.log";
export const OUTCOME_FILE = "outcome.json";

export interface CellOutcome {
  readonly cases: readonly TestCase[];
  /** What was left behind, one line each. */
  readonly left: readonly string[];
}
