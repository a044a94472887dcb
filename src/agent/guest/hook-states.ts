/**
 * A hook need not read its state. But crun 1.8 takes it for a failure of its own when the hook has closed its standard input,
 * or ended, before it has written the state there, and does not get on at all when the pipe cannot hold it. So a
 * hook waits in its execution until the whole state is in the pipe. Source: run_process_with_stdin_timeout_envp.
 */
import { describeError } from "../../errors.ts";
import { HOOK_STATE_TIMEOUT_MS } from "../../limits.ts";
import type { Log } from "../../log.ts";
import { ExecGate, type HeldExecution } from "../../sys/exec-gate.ts";
import { fdKind, O_NONBLOCK, O_RDONLY, openFd, setPipeCapacity } from "../../sys/fd.ts";
import { openPathInRoot } from "../../sys/open-in-root.ts";
import { processStat } from "../../sys/process-stat.ts";
import { pollFd } from "../../sys/readiness.ts";

export interface HookCalls {
  readonly paths: readonly string[];
  /** Where the paths start. */
  readonly root: string;
  /** That runs the hooks, once each; undefined when it is not known yet. */
  readonly parentPid: number | undefined;
  /** Bytes of the longest state there can be. */
  readonly stateBytesMax: number;
}

/** Until disposed, or all of them have been called by the known parent. Where it cannot be done, hooks are as crun has them, with a warning. */
export function holdHooks(calls: HookCalls, log: Log): Disposable {
  const held = new DisposableStack();
  if (calls.paths.length === 0) return held;
  try {
    const gate = held.use(new ExecGate());
    // Kept open: over 9p a file that nobody has open is another one when it is looked up again.
    const files = calls.paths.flatMap((path) => openPathInRoot(calls.root, path) ?? []).map((file) => held.use(file));
    for (const file of files) gate.add(file.fd);
    void letThrough(gate, calls, log, files.length).finally(() => held.dispose());
  } catch (thrown) {
    held.dispose();
    log.warn("hooks that do not read their state may fail", { error: describeError(thrown) });
  }
  return held;
}

/** Resolves after the last of `count` calls, where it is known whose they are, or when the gate is disposed. */
async function letThrough(gate: ExecGate, calls: HookCalls, log: Log, count: number): Promise<void> {
  const { promise: last, resolve } = Promise.withResolvers<void>();
  let left = count;
  const pass = async (execution: HeldExecution): Promise<void> => {
    if ((await letGoWithState(execution, calls, log)) && calls.parentPid !== undefined) left -= 1;
    if (left <= 0) resolve();
  };
  const pump = async (): Promise<void> => {
    for (;;) for (const execution of await gate.next()) void pass(execution);
  };
  // Rejected when the gate is disposed, or of no use any more: then nobody is held.
  await Promise.race([last, pump().catch(() => undefined)]);
}

/** True for one of the hooks; others execute the file at once. */
async function letGoWithState(execution: HeldExecution, calls: HookCalls, log: Log): Promise<boolean> {
  const { pid } = execution;
  let isHook = false;
  try {
    isHook = calls.parentPid === undefined || processStat(pid)?.parentPid === calls.parentPid;
    if (isHook) await untilWritten(pid, calls.stateBytesMax);
  } catch (thrown) {
    log.warn("hook runs without its whole state", { pid, error: describeError(thrown) });
  }
  try {
    execution.letGo();
  } catch (thrown) {
    log.error("hook is kept waiting", { pid, error: describeError(thrown) });
  }
  return isHook;
}

/** Waits until the pipe that is a process's standard input has no writer any more. While it is open here, nobody gets EPIPE. */
async function untilWritten(pid: number, bytesMax: number): Promise<void> {
  using input = openFd(`/proc/${pid}/fd/0`, O_RDONLY | O_NONBLOCK);
  if (fdKind(input.fd) !== "pipe") return;
  setPipeCapacity(input.fd, bytesMax);
  const polled = pollFd(input.fd);
  try {
    await polled.wait("hang-up", AbortSignal.timeout(HOOK_STATE_TIMEOUT_MS));
  } finally {
    polled.release();
  }
}
