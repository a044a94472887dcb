/** The one place where an error becomes text for a person or an engine: one line, its hint with it. */
import { writeSync } from "node:fs";
import { describeError, firstError, HearthError } from "../errors.ts";

/** Message, causes and hint in one line. */
export function errorLine(thrown: unknown): string {
  const first = firstError(thrown);
  const hint = first instanceof HearthError && first.hint !== undefined ? ` (hint: ${first.hint})` : "";
  return `${describeError(thrown)}${hint}`.trim().replace(/\s*[\r\n]+\s*/g, "; ");
}

export function exitCodeOf(thrown: unknown): number {
  const first = firstError(thrown);
  return first instanceof HearthError ? first.exitCode : 1;
}

/** Writes to standard error; one that cannot be written must not hide the exit status. */
export function printError(prefix: string, thrown: unknown): void {
  try {
    writeSync(2, `${prefix}: ${errorLine(thrown)}\n`);
  } catch {
    // Nobody is listening.
  }
}
