/** `pause`: suspends every process of a running container. */
import { HearthError } from "../../errors.ts";
import { canPause, statusOf } from "../../oci/container-record.ts";
import { lockContainer } from "../../oci/container-store.ts";
import { defineRuntimeCommand, onlyContainerId } from "./command.ts";
import { lockTimeoutMs, withSandbox } from "./with-sandbox.ts";

export const command = defineRuntimeCommand({
  flags: {},
  positionals: "<container-id>",
  async run(context, _flags, positionals) {
    const id = onlyContainerId(positionals);
    await using container = await lockContainer(await context.root(), id, await lockTimeoutMs(context));
    const { record } = container;
    if (!canPause(statusOf(record))) {
      throw new HearthError("failed-precondition", `container not running: ${id}`, { facts: { id } });
    }
    await withSandbox(context, record, (sandbox, timeoutMs) =>
      sandbox.pauseContainer({ containerId: id }, { timeoutMs }),
    );
    container.save({ ...record, status: "paused" });
  },
});
