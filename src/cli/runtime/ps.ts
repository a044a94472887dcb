/** `ps`: the processes of a container: for programs, the pid that stands for them on this host; for people, the guest's table. */
import { HearthError } from "../../errors.ts";
import { statusOf } from "../../oci/container-record.ts";
import { readContainer } from "../../oci/container-store.ts";
import { writeOut } from "../output.ts";
import { defineRuntimeCommand } from "./command.ts";
import { withSandbox } from "./with-sandbox.ts";

/** Of `ps -ef`. */
const HEADER = "UID          PID    PPID  C STIME TTY          TIME CMD\n";

export const command = defineRuntimeCommand({
  flags: {
    format: { type: "string", short: "f", value: "FORMAT", help: "table (default) or json" },
  },
  positionals: "<container-id> [ps-options...]",
  flagsEnd: "first-positional",
  async run(context, flags, positionals) {
    const [id, ...args] = positionals;
    if (id === undefined) throw new HearthError("invalid-argument", "container id is missing");
    const { format = "table" } = flags;
    if (format !== "table" && format !== "json") {
      throw new HearthError("invalid-argument", `invalid format option ${JSON.stringify(format)}: table or json`);
    }
    const record = readContainer(await context.root(), id);
    const status = statusOf(record);
    // Whoever reads the JSON looks these pids up on this host, where numbers from the guest would name strangers.
    if (format === "json") {
      await writeOut(JSON.stringify(status === "stopped" ? [] : [record.shim.pid]));
      return;
    }
    if (status === "stopped") {
      // As runc: a table of nothing.
      await writeOut(HEADER);
      return;
    }
    if (status === "creating") {
      throw new HearthError("failed-precondition", `container not running: ${id}`, { facts: { id, status } });
    }
    const { processList } = await withSandbox(context, record, (sandbox, timeoutMs) =>
      sandbox.listProcesses({ containerId: id, format, args: [...args] }, { timeoutMs }),
    );
    await writeOut(new TextDecoder().decode(processList));
  },
});
