/** What pause and resume have in common: under the container's lock they ask its sandbox process, then note the new status. */
import { HearthError } from "../../errors.ts";
import {
  type ContainerRecord,
  type ContainerStatus,
  type RecordedStatus,
  statusOf,
} from "../../oci/container-record.ts";
import { lockContainer } from "../../oci/container-store.ts";
import type { SandboxConnection } from "../../rpc/sandbox-connection.ts";
import { defineRuntimeCommand, onlyContainerId, type RuntimeCommand } from "./command.ts";
import { lockTimeoutMs, withSandbox } from "./with-sandbox.ts";

export interface StatusChange {
  readonly can: (status: ContainerStatus) => boolean;
  /** What a container that cannot is not, for the message. */
  readonly from: RecordedStatus;
  readonly change: (record: ContainerRecord) => ContainerRecord;
  ask(sandbox: SandboxConnection["sandbox"], containerId: string, timeoutMs: number): Promise<unknown>;
}

export function statusCommand({ can, from, change, ask }: StatusChange): RuntimeCommand {
  return defineRuntimeCommand({
    flags: {},
    positionals: "<container-id>",
    async run(context, _flags, positionals) {
      const id = onlyContainerId(positionals);
      await using container = await lockContainer(await context.root(), id, await lockTimeoutMs(context));
      const { record } = container;
      if (!can(statusOf(record))) {
        throw new HearthError("failed-precondition", `container not ${from}: ${id}`, { facts: { id } });
      }
      await withSandbox(context, record, (sandbox, timeoutMs) => ask(sandbox, id, timeoutMs));
      container.save(change(record));
    },
  });
}
