/** When an init process has become the container's program: until then it is crun, which ignores most signals. */
import { statSync } from "node:fs";
import { isErrnoException, toHearthError } from "../../errors.ts";
import { PROGRAM_START_POLL_MS_MAX, PROGRAM_START_TIMEOUT_MS } from "../../limits.ts";
import { sleep } from "../../util/wait.ts";

/** Runs `go`, which lets the process go on, and resolves when it executes another file, has ended, or takes too long. */
export async function untilExecuted(pid: number, go: () => void | Promise<void>): Promise<void> {
  const before = executableOf(pid);
  await go();
  const deadline = performance.now() + PROGRAM_START_TIMEOUT_MS;
  for (let pauseMs = 1; performance.now() < deadline; pauseMs = Math.min(pauseMs * 2, PROGRAM_START_POLL_MS_MAX)) {
    const now = executableOf(pid);
    if (now === undefined || now !== before) return;
    await sleep(pauseMs);
  }
}

/** Device and inode of the file that a process executes; undefined when it has ended. Source: proc(5), /proc/PID/exe. */
function executableOf(pid: number): string | undefined {
  try {
    const { dev, ino } = statSync(`/proc/${pid}/exe`, { bigint: true });
    return `${dev}:${ino}`;
  } catch (thrown) {
    if (isErrnoException(thrown) && (thrown.code === "ENOENT" || thrown.code === "ESRCH")) return undefined;
    throw toHearthError(thrown, `inspect program of process ${pid}`);
  }
}
