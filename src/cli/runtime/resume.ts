/** `resume`: lets the processes of a paused container go on. */
import { HearthError } from "../../errors.ts";
import { canResume, statusOf } from "../../oci/container-record.ts";
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
    if (!canResume(statusOf(record))) {
      throw new HearthError("failed-precondition", `container not paused: ${id}`, { facts: { id } });
    }
    await withSandbox(context, record, (sandbox, timeoutMs) =>
      sandbox.resumeContainer({ containerId: id }, { timeoutMs }),
    );
    container.save({ ...record, status: "running" });
  },
});
