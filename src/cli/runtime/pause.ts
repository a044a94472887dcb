/** `pause`: suspends every process of a running container. */
import { canPause } from "../../oci/container-record.ts";
import { statusCommand } from "./status-command.ts";

export const command = statusCommand({
  can: canPause,
  from: "running",
  to: "paused",
  ask: (sandbox, containerId, timeoutMs) => sandbox.pauseContainer({ containerId }, { timeoutMs }),
});
