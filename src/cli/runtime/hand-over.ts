/** What a caller is handed over a unix socket that it listens on: a terminal's master side, a pidfd. */
import { resolve } from "node:path";
import { HearthError } from "../../errors.ts";
import { HAND_OVER_TIMEOUT_MS } from "../../limits.ts";
import { openPidfd, type ProcessIdentity } from "../../sys/process-identity.ts";
import type { Pty } from "../../sys/pty.ts";
import { sendFdTo } from "../../sys/scm.ts";

/** The socket's owner has the master from here on; a socket that nobody answers on fails the command. */
export async function handOverMaster(pty: Pty, consoleSocket: string, signal: AbortSignal): Promise<void> {
  const name = new TextEncoder().encode(pty.path);
  await sendFdTo(resolve(consoleSocket), name, pty.master.fd, { timeoutMs: HAND_OVER_TIMEOUT_MS, signal });
}

/** "standard" is a container's first process, "setns" one of exec. Source: runc, which sends these words with it. */
export type PidfdKind = "standard" | "setns";

/** Of the process that stands for the one in the guest: what it is sent goes there, and it ends with it. */
export async function handOverPidfd(
  identity: ProcessIdentity,
  kind: PidfdKind,
  pidfdSocket: string | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (pidfdSocket === undefined) return;
  using pidfd = openPidfd(identity);
  if (pidfd === undefined) {
    throw new HearthError("failed-precondition", `send pidfd to ${pidfdSocket}: process ${identity.pid} has ended`);
  }
  const name = new TextEncoder().encode(kind);
  await sendFdTo(resolve(pidfdSocket), name, pidfd.fd, { timeoutMs: HAND_OVER_TIMEOUT_MS, signal });
}
