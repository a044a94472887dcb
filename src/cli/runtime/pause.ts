/** `pause`: suspends every process of a container, also of one that waits for its start. */
import { canPause } from "../../oci/container-record.ts";
import { statusCommand } from "./status-command.ts";

export const command = statusCommand({
  can: canPause,
  from: "running",
  change: (record) => ({ ...record, status: "paused", pausedFrom: record.status }),
  ask: (sandbox, containerId, timeoutMs) => sandbox.pauseContainer({ containerId }, { timeoutMs }),
});
