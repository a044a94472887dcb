/** `state`: prints the OCI state of one container. Reads one file; nothing heavy may be imported here. */
import { printedState } from "../../oci/container-record.ts";
import { readContainer } from "../../oci/container-store.ts";
import { writeOut } from "../output.ts";
import { defineRuntimeCommand, onlyContainerId } from "./command.ts";

export const command = defineRuntimeCommand({
  flags: {},
  positionals: "<container-id>",
  async run(context, _flags, positionals) {
    const record = readContainer(await context.root(), onlyContainerId(positionals));
    await writeOut(JSON.stringify(printedState(record), null, 2));
  },
});
