/** Processes that are not our children: a pid with its start time names one for ever, a pid alone does not. */
import { SystemError } from "../errors.ts";
import { asFd, OwnedFd } from "./fd.ts";
import { lastErrno, lazyLibc } from "./libc.ts";
import { isAlive, type ProcessIdentity, pidStartTime } from "./process-stat.ts";
import { pollFd } from "./readiness.ts";
import { signalName } from "./signals.ts";

// One name for everything about identities; process-stat is apart only for what must start fast.
export {
  childPids,
  isAlive,
  type ProcessIdentity,
  type ProcessStat,
  pidStartTime,
  processStat,
} from "./process-stat.ts";

/** Identity of a running process; "not-found" when there is none with that pid. */
export function identifyProcess(pid: number): ProcessIdentity {
  const startTime = pidStartTime(pid);
  if (startTime === undefined) throw new SystemError("ESRCH", `identify process ${pid}`);
  return { pid, startTime };
}

/** Our own identity. */
export function ownIdentity(): ProcessIdentity {
  return identifyProcess(process.pid);
}

const libc = lazyLibc({ syscall: { args: ["i64", "i64", "i64", "i64", "i64"], returns: "i64" } });
/** Source: asm/unistd_64.h. By number, because glibc has names for them only since 2.36. */
const SYS_PIDFD_SEND_SIGNAL = 424n;
const SYS_PIDFD_OPEN = 434n;

/** A pidfd, O_CLOEXEC, of that very process; undefined when it is gone. A zombie still has one. */
export function openPidfd(identity: ProcessIdentity): OwnedFd | undefined {
  const result = Number(libc().syscall(SYS_PIDFD_OPEN, BigInt(identity.pid), 0n, 0n, 0n));
  if (result < 0) {
    const errno = lastErrno();
    if (errno === "ESRCH") return undefined;
    throw new SystemError(errno, `open process ${identity.pid}`);
  }
  const pidfd = new OwnedFd(asFd(result));
  // Now the pid cannot be recycled under us; whether it was before we opened it, the start time tells.
  if (pidStartTime(identity.pid) === identity.startTime) return pidfd;
  pidfd.close();
  return undefined;
}

/** Sends a signal to that very process, never to one that has its pid now. False when it has gone or is a zombie. */
export function signalProcess(identity: ProcessIdentity, signal: number): boolean {
  using pidfd = openPidfd(identity);
  if (pidfd === undefined || !isAlive(identity)) return false;
  const result = libc().syscall(SYS_PIDFD_SEND_SIGNAL, BigInt(pidfd.fd), BigInt(signal), 0n, 0n);
  if (result >= 0n) return true;
  const errno = lastErrno();
  if (errno === "ESRCH") return false;
  throw new SystemError(errno, `send ${signalName(signal)} to process ${identity.pid}`);
}

/** Resolves when that very process has ended (reaped or not, child or not); rejects only when `signal` aborts. */
export async function processExit(identity: ProcessIdentity, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  using pidfd = openPidfd(identity);
  if (pidfd === undefined) return;
  const polled = pollFd(pidfd.fd);
  try {
    await polled.wait("read", signal);
  } finally {
    polled.release();
  }
}
