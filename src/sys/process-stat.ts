/** What /proc says of a process, by file reads alone: `state` asks this and must not load anything heavier. */
import { readFileSync } from "node:fs";
import { HearthError, isErrnoException, isNotFound, toHearthError } from "../errors.ts";

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

/** Children of a process's main thread; none where it has gone. Source: proc(5), /proc/PID/task/TID/children. */
export function childPids(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
    return text === "" ? [] : text.split(" ").map(Number);
  } catch (thrown) {
    if (isNotFound(thrown) || (isErrnoException(thrown) && thrown.code === "ESRCH")) return [];
    throw toHearthError(thrown, `read children of process ${pid}`);
  }
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

/** True while that very process exists and has not ended; a zombie has ended. */
export function isAlive(identity: ProcessIdentity): boolean {
  const stat = processStat(identity.pid);
  return stat !== undefined && stat.startTime === identity.startTime && stat.state !== "Z" && stat.state !== "X";
}
