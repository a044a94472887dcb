/** Processes that are not our children: a pid with its start time names one for ever, a pid alone does not. */
import { readFileSync } from "node:fs";
import { HearthError, isErrnoException, isNotFound, SystemError, toHearthError } from "../errors.ts";
import { asFd, OwnedFd } from "./fd.ts";
import { lastErrno, lazyLibc } from "./libc.ts";
import { pollFd } from "./readiness.ts";
import { signalName } from "./signals.ts";

/** Never recycled within one boot of the machine. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks between boot and the start of the process. Source: proc(5), field 22 of /proc/PID/stat. */
  readonly startTime: number;
}

export interface ProcessStat {
  readonly pid: number;
  readonly command: string;
  /** One letter: R running, S sleeping, D disk, T stopped, Z zombie, X dead. */
  readonly state: string;
  readonly parentPid: number;
  readonly processGroup: number;
  readonly session: number;
  readonly startTime: number;
}

/** Parses /proc/PID/stat. The command stands in parentheses and may itself hold spaces, parentheses and newlines. */
export function parseProcessStat(text: string): ProcessStat {
  const open = text.indexOf("(");
  const close = text.lastIndexOf(")");
  const fields = text.slice(close + 2).split(" ");
  const number = (index: number): number => {
    const value = Number(fields[index]);
    if (!Number.isInteger(value)) throw new HearthError("internal", "parse process stat: field is no number");
    return value;
  };
  const pid = Number(text.slice(0, open).trim());
  const state = fields[0] ?? "";
  if (open < 1 || close < open || !Number.isInteger(pid) || !/^[A-Za-z]$/.test(state)) {
    throw new HearthError("internal", `parse process stat ${JSON.stringify(text.slice(0, 80))}`);
  }
  return {
    pid,
    command: text.slice(open + 1, close),
    state,
    parentPid: number(1),
    processGroup: number(2),
    session: number(3),
    startTime: number(19),
  };
}

/** What /proc says of a process now, zombies included; undefined when there is none. */
export function processStat(pid: number): ProcessStat | undefined {
  try {
    return parseProcessStat(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch (thrown) {
    // ESRCH: it went away between open and read.
    if (isNotFound(thrown) || (isErrnoException(thrown) && thrown.code === "ESRCH")) return undefined;
    throw toHearthError(thrown, `inspect process ${pid}`);
  }
}

/** Start time of a process, zombies included; undefined when there is none. */
export function pidStartTime(pid: number): number | undefined {
  return processStat(pid)?.startTime;
}

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

/** True while that very process exists and has not ended; a zombie has ended. */
export function isAlive(identity: ProcessIdentity): boolean {
  const stat = processStat(identity.pid);
  return stat !== undefined && stat.startTime === identity.startTime && stat.state !== "Z" && stat.state !== "X";
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
