/** `start`: starts the process of a created container, then runs the poststart hooks. */
import { HearthError } from "../../errors.ts";
import { type ContainerStatus, canStart, hookState, statusOf } from "../../oci/container-record.ts";
import { type LockedContainer, lockContainer } from "../../oci/container-store.ts";
import { hooksOf } from "../../oci/record-hooks.ts";
import { defineRuntimeCommand, onlyContainerId } from "./command.ts";
import type { RuntimeContext } from "./context.ts";
import { lockTimeoutMs, withSandbox } from "./with-sandbox.ts";

export const command = defineRuntimeCommand({
  flags: {},
  positionals: "<container-id>",
  async run(context, _flags, positionals) {
    const id = onlyContainerId(positionals);
    await using container = await lockContainer(await context.root(), id, await lockTimeoutMs(context));
    await startContainer(context, container);
  },
});

/** Starts a container whose lock is held. A failing poststart hook ends the container and is thrown, as runc does. */
export async function startContainer(context: RuntimeContext, container: LockedContainer): Promise<void> {
  const { record } = container;
  const status = statusOf(record);
  if (!canStart(status)) throw cannotStart(record.id, status);
  await withSandbox(context, record, async (sandbox, timeoutMs) => {
    await sandbox.startContainer({ containerId: record.id }, { timeoutMs });
  });
  container.save({ ...record, status: "running" });
  const { poststart } = hooksOf(record);
  if (poststart === undefined || poststart.length === 0) return;
  const { runHooks } = await import("../../oci/run-hooks.ts");
  try {
    await runHooks("poststart", poststart, hookState(record, "running"), record.bundle);
  } catch (thrown) {
    await withSandbox(context, record, (sandbox, timeoutMs) =>
      sandbox.signalProcess({ containerId: record.id, execId: "", signal: 9, all: true }, { timeoutMs }),
    ).catch((cause) => context.log.warn("kill after failed hook failed", { id: record.id, error: String(cause) }));
    throw thrown;
  }
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
