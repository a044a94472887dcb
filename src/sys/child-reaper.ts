/** Exit statuses of children that the runtime did not start: those that a subreaper inherited. */
import { readdirSync, readFileSync } from "node:fs";
import { HearthError, isErrnoException, isNotFound, SystemError, toHearthError } from "../errors.ts";
import { ORPHAN_STATUSES_MAX } from "../limits.ts";
import { lastErrno, lazyLibc } from "./libc.ts";
import { type ExitStatus, isOwnChild } from "./process.ts";
import { openPidfd } from "./process-identity.ts";
import { processStat } from "./process-stat.ts";
import { pollFd } from "./readiness.ts";

const WNOHANG = 1;

const libc = lazyLibc({ waitpid: { args: ["i32", "ptr", "i32"], returns: "i32" } });

/** Decodes a wait(2) status. Source: bits/waitstatus.h. */
export function decodeWaitStatus(status: number): ExitStatus {
  const signal = status & 0x7f;
  return signal === 0 ? { kind: "exited", code: (status >> 8) & 0xff } : { kind: "signaled", signal };
}

/**
 * waitpid(2) for one known pid, without waiting: its status, "running", or "not-a-child". Never for any pid (-1): that
 * would take children away from the runtime, which then crashes.
 */
export function tryReap(pid: number): ExitStatus | "running" | "not-a-child" {
  if (!Number.isInteger(pid) || pid <= 0) throw new HearthError("internal", `reap process ${pid}`);
  if (isOwnChild(pid)) throw new HearthError("internal", `reap process ${pid}: the runtime does that`);
  const status = new Int32Array(1);
  const reaped = libc().waitpid(pid, status, WNOHANG);
  if (reaped === 0) return "running";
  if (reaped > 0) return decodeWaitStatus(status[0] ?? 0);
  const errno = lastErrno();
  if (errno === "ECHILD") return "not-a-child";
  throw new SystemError(errno, `reap process ${pid}`);
}

export type ReapedStatus = ExitStatus & {
  /** Name of the program that it ran last. Source: proc(5), /proc/PID/comm. */
  readonly command: string;
};

/**
 * Collects the children of a subreaper. Processes that somebody waits for are reaped when they end; the rest on
 * `sweep`, whose statuses are kept for a while, because the pid of a short-lived process may become known to us only
 * after it ended.
 */
export class ChildReaper implements Disposable {
  readonly #waited = new Map<number, Promise<ReapedStatus>>();
  readonly #swept = new Map<number, ReapedStatus>();
  readonly #onSigchld = (): void => {
    this.sweep();
  };

  /** From now on orphans are swept whenever a child ends. */
  start(): void {
    process.on("SIGCHLD", this.#onSigchld);
  }

  [Symbol.dispose](): void {
    process.off("SIGCHLD", this.#onSigchld);
  }

  /** Resolves with the status of a child once it has ended, also when it has already; every caller gets the same. */
  wait(pid: number): Promise<ReapedStatus> {
    const known = this.#waited.get(pid);
    if (known !== undefined) return known;
    const waiting = this.#reap(pid).finally(() => this.#waited.delete(pid));
    this.#waited.set(pid, waiting);
    return waiting;
  }

  /** Reaps every zombie child that nobody waits for; returns how many. */
  sweep(): number {
    let count = 0;
    for (const pid of childPids()) {
      if (this.#waited.has(pid) || isOwnChild(pid)) continue;
      const stat = processStat(pid);
      if (stat?.state !== "Z") continue;
      const status = tryReap(pid);
      if (typeof status === "string") continue;
      count++;
      this.#swept.delete(pid);
      this.#swept.set(pid, { ...status, command: stat.command });
      const [oldest] = this.#swept.keys();
      if (this.#swept.size > ORPHAN_STATUSES_MAX && oldest !== undefined) this.#swept.delete(oldest);
    }
    return count;
  }

  async #reap(pid: number): Promise<ReapedStatus> {
    for (;;) {
      const stat = processStat(pid);
      const status = tryReap(pid);
      if (status === "not-a-child") return this.#sweptStatus(pid);
      if (status !== "running") return { ...status, command: stat?.command ?? "" };
      using pidfd = stat && openPidfd({ pid, startTime: stat.startTime });
      if (pidfd === undefined) continue;
      const polled = pollFd(pidfd.fd);
      try {
        await polled.wait("read");
      } finally {
        polled.release();
      }
    }
  }

  #sweptStatus(pid: number): ReapedStatus {
    const status = this.#swept.get(pid);
    if (status === undefined) throw new SystemError("ECHILD", `wait for process ${pid}`);
    this.#swept.delete(pid);
    return status;
  }
}

/** Children of all our threads. Source: proc(5), /proc/PID/task/TID/children. */
function childPids(): number[] {
  const pids: number[] = [];
  for (const thread of readdirSync("/proc/self/task")) {
    try {
      const text = readFileSync(`/proc/self/task/${thread}/children`, "utf8");
      for (const pid of text.split(" ")) if (pid !== "") pids.push(Number(pid));
    } catch (thrown) {
      // The thread has ended; its children are listed with another one.
      if (isNotFound(thrown) || (isErrnoException(thrown) && thrown.code === "ESRCH")) continue;
      throw toHearthError(thrown, "list children");
    }
  }
  return pids;
}
