/** `start`: starts the process of a created container, then runs the poststart hooks. */
import { HearthError } from "../../errors.ts";
import {
  type ContainerRecord,
  type ContainerStatus,
  canStart,
  hookState,
  statusOf,
} from "../../oci/container-record.ts";
import { type LockedContainer, lockContainer } from "../../oci/container-store.ts";
import { hooksOf } from "../../oci/record-hooks.ts";
import { defineRuntimeCommand, onlyContainerId } from "./command.ts";
import type { RuntimeContext } from "./context.ts";
import { deleteContainer } from "./delete.ts";
import { lockTimeoutMs, withSandbox } from "./with-sandbox.ts";

export const command = defineRuntimeCommand({
  flags: {},
  positionals: "<container-id>",
  async run(context, _flags, positionals) {
    const id = onlyContainerId(positionals);
    await using container = await lockContainer(await context.root(), id, await lockTimeoutMs(context));
    await startContainer(context, container);
    try {
      await runPoststartHooks(container.record);
    } catch (thrown) {
      await deleteContainer(context, container);
      throw thrown;
    }
  },
});

/** Starts a container whose lock is held; what has to follow are its poststart hooks. */
export async function startContainer(context: RuntimeContext, container: LockedContainer): Promise<void> {
  const { record } = container;
  const status = statusOf(record);
  if (!canStart(status)) throw cannotStart(record.id, status);
  await withSandbox(context, record, async (sandbox, timeoutMs) => {
    await sandbox.startContainer({ containerId: record.id }, { timeoutMs });
  });
  container.save({ ...record, status: "running" });
}

/** The caller deletes the container when one fails. Source: OCI runtime spec, lifecycle steps 9 and 12. */
export async function runPoststartHooks(record: ContainerRecord): Promise<void> {
  const { poststart } = hooksOf(record);
  if (poststart === undefined || poststart.length === 0) return;
  const { runHooks } = await import("../../oci/run-hooks.ts");
  await runHooks("poststart", poststart, hookState(record, "running"), record.bundle);
}

function cannotStart(id: string, status: ContainerStatus): HearthError {
  const why = {
    creating: `cannot start container ${id}: it is still being created`,
    created: "",
    running: `cannot start an already running container: ${id}`,
    paused: `cannot start a container in the paused state: ${id}`,
    stopped: `cannot start a container that has stopped: ${id}`,
  }[status];
  return new HearthError("failed-precondition", why, { facts: { id, status } });
}
