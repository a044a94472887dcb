/** `delete`: removes a container from its VM and from the host; the last one takes the VM with it. */
import { HearthError } from "../../errors.ts";
import { type ContainerRecord, canDelete, hookState, statusOf } from "../../oci/container-record.ts";
import { type LockedContainer, lockContainer, removeLeftover } from "../../oci/container-store.ts";
import { hooksOf } from "../../oci/record-hooks.ts";
import { defineRuntimeCommand, onlyContainerId } from "./command.ts";
import type { RuntimeContext } from "./context.ts";
import { lockTimeoutMs } from "./with-sandbox.ts";

export const command = defineRuntimeCommand({
  flags: {
    force: { type: "boolean", short: "f", help: "kill what still runs; no error when there is no such container" },
  },
  positionals: "<container-id>",
  async run(context, flags, positionals) {
    const id = onlyContainerId(positionals);
    const root = await context.root();
    let container: LockedContainer;
    try {
      container = await lockContainer(root, id, await lockTimeoutMs(context));
    } catch (thrown) {
      const absent = thrown instanceof HearthError && thrown.code === "not-found";
      if (!flags.force || !absent) throw thrown;
      const cgroupDirs = await removeLeftover(root, id);
      if (cgroupDirs === undefined) return;
      const { removeHostCgroup } = await import("../../sandbox/cgroup.ts");
      await removeHostCgroup(cgroupDirs);
      return;
    }
    await using locked = container;
    const status = statusOf(locked.record);
    if (!flags.force && !canDelete(status)) {
      throw new HearthError("failed-precondition", `cannot delete container ${id} that is not stopped: ${status}`, {
        facts: { id, status },
      });
    }
    await deleteContainer(context, locked);
  },
});

/**
 * Ends and removes a container whose lock is held, whatever it is doing; each part that is already gone is skipped.
 * When a part cannot be removed the record stays, so that a later delete can finish.
 */
export async function deleteContainer(context: RuntimeContext, container: LockedContainer): Promise<void> {
  const { record } = container;
  const [root, timeoutMs] = [await context.root(), await lockTimeoutMs(context)];
  const { releaseContainer } = await import("./release.ts");
  await releaseContainer(record, { root, timeoutMs, log: context.log });
  container.remove();
  await runPoststopHooks(context, record);
}

/** A poststop hook that fails is a warning, and the others still run. Source: OCI runtime spec, lifecycle step 13. */
export async function runPoststopHooks(context: RuntimeContext, record: ContainerRecord): Promise<void> {
  const { poststop } = hooksOf(record);
  if (poststop === undefined || poststop.length === 0) return;
  const { runHooks } = await import("../../oci/run-hooks.ts");
  const { errorLine } = await import("../report-error.ts");
  for (const hook of poststop) {
    try {
      await runHooks("poststop", [hook], hookState(record, "stopped"), record.bundle);
    } catch (thrown) {
      context.log.warn(errorLine(thrown), { id: record.id });
    }
  }
}
