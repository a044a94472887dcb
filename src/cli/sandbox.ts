/** `hearth sandbox`: the process that owns one VM. Started by the factory, which tells it everything on standard input. */

import { HearthError } from "../errors.ts";
import { sandboxMain } from "../sandbox/main.ts";
import { asFd } from "../sys/fd.ts";
import { isTerminal } from "../sys/pty.ts";
import { exitCodeOf, printError } from "./report-error.ts";

export async function sandboxCommand(args: readonly string[]): Promise<number> {
  try {
    if (args.length > 0 || isTerminal(asFd(0))) {
      throw new HearthError("invalid-argument", "start sandbox process: it is started by the runtime, not by hand");
    }
    return await sandboxMain();
  } catch (thrown) {
    printError("hearth sandbox", thrown);
    return exitCodeOf(thrown);
  }
}
