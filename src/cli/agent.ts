/** `hearth agent`: the guest's side, inside a VM. */
import { runAgent } from "../agent/guest/main.ts";
import { HearthError } from "../errors.ts";
import { exitCodeOf, printError } from "./report-error.ts";

/** Serves until the port is lost. */
export async function agentCommand(args: readonly string[]): Promise<number> {
  try {
    if (args.length > 0) throw new HearthError("invalid-argument", "no arguments are wanted: it runs in the guest");
    await runAgent();
    return 0;
  } catch (thrown) {
    printError("hearth agent", thrown);
    return exitCodeOf(thrown);
  }
}
