/** A command line that cannot be understood, as opposed to a command that fails: `exec` has another exit status for those. */
import { HearthError } from "../errors.ts";

export class UsageError extends HearthError {
  override readonly name = "UsageError";

  constructor(message: string) {
    super("invalid-argument", message);
  }
}

/** Of a command that takes none, or no more. Fails with invalid-argument. */
export function refusePositionals([first]: readonly string[]): void {
  if (first === undefined) return;
  throw new HearthError("invalid-argument", `no arguments are wanted, got ${JSON.stringify(first)}`);
}
