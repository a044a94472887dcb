/** `resume`: lets the processes of a paused container go on. */
import { canResume } from "../../oci/container-record.ts";
import { statusCommand } from "./status-command.ts";

export const command = statusCommand({
  can: canResume,
  from: "paused",
  change: ({ pausedFrom = "running", ...record }) => ({ ...record, status: pausedFrom }),
  ask: (sandbox, containerId, timeoutMs) => sandbox.resumeContainer({ containerId }, { timeoutMs }),
});
