/** One command's conversation with the sandbox process of a container. */

import { HearthError } from "../../errors.ts";
import type { ContainerRecord } from "../../oci/container-record.ts";
import { connectSandbox, isSandboxGone, type SandboxConnection } from "../../rpc/sandbox-connection.ts";
import type { RuntimeContext } from "./context.ts";

/** Connects, runs `step` and disconnects. `timeoutMs` is the configured bound for each call. */
export async function withSandbox<T>(
  context: RuntimeContext,
  record: ContainerRecord,
  step: (sandbox: SandboxConnection["sandbox"], timeoutMs: number) => Promise<T>,
): Promise<T> {
  const timeoutMs = (await context.config()).runtime.request_timeout_ms;
  await using connection = await connectContainer(record, timeoutMs);
  return await step(connection.sandbox, timeoutMs);
}

/** Where nobody answers the container has ended with its VM, which is said as engines understand it. */
export async function connectContainer({ id, vm }: ContainerRecord, timeoutMs: number): Promise<SandboxConnection> {
  try {
    return await connectSandbox(vm.socket, { timeoutMs });
  } catch (cause) {
    if (!isSandboxGone(cause)) throw cause;
    throw new HearthError("failed-precondition", `container not running: ${id}`, { cause, facts: { id } });
  }
}

/** How long a command waits for another that holds the container's lock: the bound of what the other may wait for. */
export async function lockTimeoutMs(context: RuntimeContext): Promise<number> {
  return (await context.config()).runtime.request_timeout_ms;
}
