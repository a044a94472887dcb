/** `list`: every container below the root. Reads files only. */
import { HearthError } from "../../errors.ts";
import { type PrintedState, printedState } from "../../oci/container-record.ts";
import { listContainers } from "../../oci/container-store.ts";
import { formatTable, writeOut } from "../output.ts";
import { refusePositionals } from "../usage-error.ts";
import { defineRuntimeCommand } from "./command.ts";

export const command = defineRuntimeCommand({
  flags: {
    format: { type: "string", short: "f", value: "FORMAT", help: "table (default) or json" },
    quiet: { type: "boolean", short: "q", help: "print ids only" },
  },
  positionals: "",
  async run(context, flags, positionals) {
    refusePositionals(positionals);
    const { format = "table" } = flags;
    if (format !== "table" && format !== "json") {
      throw new HearthError("invalid-argument", `invalid format option ${JSON.stringify(format)}: table or json`);
    }
    const states = listContainers(await context.root()).map(printedState);
    if (flags.quiet) await writeOut(states.map((state) => `${state.id}\n`).join(""));
    else if (format === "json") await writeOut(`${JSON.stringify(states)}\n`);
    else await writeOut(table(states));
  },
});

function table(states: readonly PrintedState[]): string {
  const rows = states.map((state) => [
    state.id,
    String(state.pid),
    state.status,
    state.bundle,
    state.created,
    state.owner,
  ]);
  return formatTable([["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], ...rows]);
}
