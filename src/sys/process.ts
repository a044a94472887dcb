/** Starting child processes, with constructed environments and named descriptors, and ending them. */
import { statSync } from "node:fs";
import { join } from "node:path";
import { HearthError, SystemError, toHearthError } from "../errors.ts";
import { KILL_GRACE_MS } from "../limits.ts";
import { sleep } from "../util/wait.ts";
import { keepingCapabilities } from "./capabilities.ts";
import { cleanEnv, type Environment } from "./environment.ts";
import type { Fd } from "./fd.ts";
import { check, cString, lastErrno, lazyLibc } from "./libc.ts";
import { inNetns, inNewPidNamespace } from "./namespace.ts";
import { parseSignal, SIGKILL, SIGTERM, signalName } from "./signals.ts";

const libc = lazyLibc({ kill: { args: ["i32", "i32"], returns: "i32" } });

/** How a process ended. */
export type ExitStatus =
  | { readonly kind: "exited"; readonly code: number }
  | { readonly kind: "signaled"; readonly signal: number };

/** The status as a shell reports it: the code, or 128 plus the signal. */
export function exitCodeOf(status: ExitStatus): number {
  return status.kind === "exited" ? status.code : 128 + status.signal;
}

/** "exit status 1" or "signal SIGKILL", for messages. */
export function describeExit(status: ExitStatus): string {
  return status.kind === "exited" ? `exit status ${status.code}` : `signal ${signalName(status.signal)}`;
}

export interface SpawnOptions {
  /** Program (a path, or a name looked up in the PATH of `env`) and its arguments. */
  readonly argv: readonly [string, ...string[]];
  /** What the program sees as its argv[0]. Default: `argv[0]`. */
  readonly argv0?: string;
  /** The whole environment of the child. Default: cleanEnv(). */
  readonly env?: Environment;
  /** Default: "/", so that a child never holds somebody's mount. */
  readonly cwd?: string;
  /**
   * Descriptors for 0, 1, 2 and, by position, 3 and up, whatever numbers they have here; "ignore" is /dev/null for the first
   * three and closed above. The caller still owns and closes its own. Default: all ignored.
   */
  readonly stdio?: readonly (Fd | "ignore")[];
  /** Own session (setsid): outlives us and our terminal. */
  readonly detached?: boolean;
  /** Directory of an existing cgroup (v1 or v2) that the child is born in. */
  readonly cgroup?: string;
  /** Empties the supplementary groups too. */
  readonly uid?: number;
  readonly gid?: number;
  /** Path of a network namespace file that the child is born in. */
  readonly netns?: string;
  /** The child keeps its capabilities while it has another user's id; see keepingCapabilities. */
  readonly keepCapabilities?: boolean;
  /** The child is process 1 of a pid namespace of its own; for us it has a pid as any other. */
  readonly ownPids?: boolean;
}

/** A child of ours. Not disposable on purpose: some outlive us; `terminate` ends one. */
export interface ChildProcess {
  readonly pid: number;
  /** Resolves when the child has been reaped; never rejects. */
  readonly exited: Promise<ExitStatus>;
  /** Undefined while it runs. */
  readonly status: ExitStatus | undefined;
  /** Sends a signal; does nothing when the child has ended. The pid cannot be recycled before we have reaped it. */
  kill(signal: number): void;
  /** The child no longer keeps our event loop alive. */
  unref(): void;
}

/** Starts a process. A missing program is "not-found", one that may not run "permission-denied". */
export function spawnProcess(options: SpawnOptions): ChildProcess {
  const [program] = options.argv;
  const start = (): ChildProcess => {
    try {
      return startChild(options);
    } catch (thrown) {
      throw spawnError(thrown, options);
    }
  };
  if (program === "") throw new HearthError("invalid-argument", "start process: empty program name");
  const startThere = () => (options.netns === undefined ? start() : inNetns(options.netns, start));
  return options.keepCapabilities === true ? keepingCapabilities(startThere) : startThere();
}

/** Pids that the runtime itself waits for: children not yet reaped. Process-wide, as the kernel's table of them. */
const ownChildren = new Set<number>();

/** True for a child made by spawnProcess that has not been reaped yet: nobody else may wait for it. */
export function isOwnChild(pid: number): boolean {
  return ownChildren.has(pid);
}

type Stream = NonNullable<SpawnOptions["stdio"]>[number];

function startChild(options: SpawnOptions): ChildProcess {
  const [stdin = "ignore", stdout = "ignore", stderr = "ignore", ...more] = options.stdio ?? [];
  const stdio: [Stream, Stream, Stream, ...Stream[]] = [stdin, stdout, stderr, ...more];
  let status: ExitStatus | undefined;
  const command = {
    cmd: [...options.argv],
    ...(options.argv0 === undefined ? {} : { argv0: options.argv0 }),
    env: { ...(options.env ?? cleanEnv()) },
    cwd: options.cwd ?? "/",
    stdio,
    ...(options.detached === true ? { detached: true } : {}),
    ...(options.cgroup === undefined ? {} : { cgroup: options.cgroup }),
    ...(options.uid === undefined ? {} : { uid: options.uid }),
    ...(options.gid === undefined ? {} : { gid: options.gid }),
  };
  const start = () => Bun.spawn(command);
  const child = options.ownPids === true ? inNewPidNamespace(start) : start();
  ownChildren.add(child.pid);
  const exited = child.exited.then((code): ExitStatus => {
    ownChildren.delete(child.pid);
    status = statusOf(code, child.signalCode);
    return status;
  });
  return {
    pid: child.pid,
    exited,
    get status() {
      return status;
    },
    kill(signal) {
      // Not child.kill: it refuses realtime signals. The pid is ours until the runtime has reaped it and set one of these.
      if (child.exitCode !== null || child.signalCode !== null) return;
      if (libc().kill(child.pid, signal) >= 0) return;
      const errno = lastErrno();
      if (errno !== "ESRCH") throw new SystemError(errno, `send ${signalName(signal)} to process ${child.pid}`);
    },
    unref() {
      child.unref();
    },
  };
}

/** `signalCode` is a name, or a number for realtime signals (which the types do not say). */
function statusOf(code: number, signalCode: unknown): ExitStatus {
  if (typeof signalCode === "number") return { kind: "signaled", signal: signalCode };
  if (typeof signalCode === "string") return { kind: "signaled", signal: parseSignal(signalCode) };
  return { kind: "exited", code };
}

/** The runtime reports a missing directory or cgroup as if the program were missing: tell them apart. */
function spawnError(thrown: unknown, options: SpawnOptions): HearthError {
  const [program] = options.argv;
  const cause = thrown instanceof Error ? { cause: thrown } : {};
  for (const [what, dir] of [
    ["working directory", options.cwd],
    ["cgroup", options.cgroup],
  ] as const) {
    if (dir === undefined) continue;
    const found = statSync(dir, { throwIfNoEntry: false });
    if (found?.isDirectory() !== true) {
      return new SystemError(found === undefined ? "ENOENT" : "ENOTDIR", `start ${program}: use ${what} ${dir}`, cause);
    }
  }
  return toHearthError(thrown, `start ${program}`);
}

export interface TerminateOptions {
  /** Milliseconds between TERM and KILL. Default KILL_GRACE_MS; 0 kills at once. */
  readonly graceMs?: number;
  /** Ends the grace early. */
  readonly kill?: AbortSignal | undefined;
}

/** Ends a child: TERM, then KILL when it is still there after the grace. Resolves with its status once it is reaped. */
export async function terminate(child: ChildProcess, options: TerminateOptions = {}): Promise<ExitStatus> {
  const graceMs = options.graceMs ?? KILL_GRACE_MS;
  if (child.status !== undefined) return child.status;
  if (graceMs > 0) {
    child.kill(SIGTERM);
    const waiting = new AbortController();
    const { kill } = options;
    const patience = kill === undefined ? waiting.signal : AbortSignal.any([waiting.signal, kill]);
    await Promise.race([child.exited, sleep(graceMs, patience).catch(() => undefined)]);
    waiting.abort();
  }
  child.kill(SIGKILL);
  return await child.exited;
}

/** Kills a detached child and all it has started that is still of its process group. Nothing when it has been reaped. */
export function killGroup(child: ChildProcess): void {
  if (child.status === undefined) libc().kill(-child.pid, SIGKILL);
}

/** How to run this very program again: the compiled executable, or bun with src/main.ts when run from source. */
export function selfExec(args: readonly string[]): [string, ...string[]] {
  if (isCompiled()) return [process.execPath, ...args];
  return [process.execPath, join(import.meta.dir, "..", "main.ts"), ...args];
}

/** True inside an executable made by `bun build --compile`: its modules live in a virtual file system. */
export function isCompiled(): boolean {
  return import.meta.url.startsWith("file:///$bunfs/") || import.meta.path.startsWith("/$bunfs/");
}

const prctlLibc = lazyLibc({ prctl: { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" } });
const prctlNameLibc = lazyLibc({ prctl: { args: ["i32", "ptr", "u64", "u64", "u64"], returns: "i32" } });
/** Source: linux/prctl.h. */
const PR_SET_PDEATHSIG = 1;
const PR_SET_NAME = 15;
const PR_SET_CHILD_SUBREAPER = 36;

/** Orphans among our descendants become our children instead of those of pid 1. */
export function becomeSubreaper(): void {
  check(prctlLibc().prctl(PR_SET_CHILD_SUBREAPER, 1n, 0n, 0n, 0n), "become child subreaper");
}

/** We get `signal` (0: none) when the thread that started us ends. The caller checks afterwards that its parent still lives. */
export function setParentDeathSignal(signal: number): void {
  check(prctlLibc().prctl(PR_SET_PDEATHSIG, BigInt(signal), 0n, 0n, 0n), "set parent death signal");
}

/** Name of the main thread as ps and /proc/PID/comm show it; the kernel keeps 15 bytes. */
export function setProcessName(name: string): void {
  check(prctlNameLibc().prctl(PR_SET_NAME, cString(name), 0n, 0n, 0n), "set process name");
}
