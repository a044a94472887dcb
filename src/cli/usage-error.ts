/** A command line that cannot be understood, as opposed to a command that fails: `exec` has another exit status for those. */
import { HearthError } from "../errors.ts";

export class UsageError extends HearthError {
  override readonly name = "UsageError";

  constructor(message: string) {
    super("invalid-argument", message);
  }
}
