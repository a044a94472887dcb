/** Calling crun: once per operation, with its error out of its log instead of somebody's standard error. */
import { closeSync, constants, openSync, readFileSync, rmSync, unlinkSync, writeSync } from "node:fs";
import { join } from "node:path";
import { type ErrorCode, HearthError, isErrnoException, isNotFound, toHearthError } from "../../errors.ts";
import { CRUN_LOG_BYTES_MAX, CRUN_TIMEOUT_MS } from "../../limits.ts";
import type { Log } from "../../log.ts";
import type { GuestBundlePaths } from "../../paths.ts";
import type { Fd } from "../../sys/fd.ts";
import { type ChildProcess, describeExit, spawnProcess, terminate } from "../../sys/process.ts";
import { withDeadline } from "../../util/wait.ts";
import { programNotExecutable, programNotFound, wrongDirectory } from "./exec-failure.ts";
import { insideTimeNamespace, type TimeNamespace } from "./time-namespace.ts";

/**
 * Name of a process that is crun still. It executes a copy of itself by a descriptor, whose number is the name before Linux 6.14.
 * Source: crun 1.8, ensure_cloned_binary; Linux fs/exec.c.
 */
export const CRUN_COMMAND = /^(?:crun|\d+)$/;

export type CgroupManager = "cgroupfs" | "disabled";

export interface CrunOptions {
  /** Path of the executable. */
  readonly program: string;
  /** crun's state directory. */
  readonly stateDir: string;
  readonly cgroupManager: CgroupManager;
  /** What crun says without failing goes here. */
  readonly log: Log;
  /** Runs `start` such that what it starts is not exempt from the OOM killer, as the agent may be. */
  readonly startUnprotected: <T>(start: () => T) => T;
}

/** What the container's process gets as standard input, output and error. The caller closes its own ends. */
export type CrunStdio =
  | { readonly kind: "pipes"; readonly stdin: Fd; readonly stdout: Fd; readonly stderr: Fd }
  | { readonly kind: "terminal"; readonly consoleSocket: string };

/** And all that it gets; `preserved` as descriptors 3, 4, … */
export interface CrunStreams {
  readonly stdio: CrunStdio;
  readonly preserved: readonly Fd[];
}

/** One call of crun for a container; `slot` makes its file names its own. */
export interface CrunCall {
  readonly id: string;
  readonly bundle: GuestBundlePaths;
  readonly slot: number;
  /** args[0] of the process, for messages. */
  readonly program?: string | undefined;
  /** In which crun has to run for this container; undefined: the agent's. */
  readonly timeNamespace?: TimeNamespace | undefined;
}

export class Crun {
  readonly #options: CrunOptions;
  #nextSlot = 1;

  constructor(options: CrunOptions) {
    this.#options = options;
  }

  /** A number for the files of one call; not used twice. */
  newSlot(): number {
    return this.#nextSlot++;
  }

  /** Returns the pid of the init process, which waits for `start`. */
  create(call: CrunCall, streams: CrunStreams): Promise<number> {
    return this.#spawnsProcess(["create", "--bundle", call.bundle.dir], call, streams);
  }

  /** Returns the pid of the new process; the caller has written its processFile. `cgroup` is below the container's. */
  exec(call: CrunCall, streams: CrunStreams, cgroup: string | undefined): Promise<number> {
    const place = cgroup === undefined ? [] : ["--cgroup", cgroup];
    const process = ["--process", call.bundle.processFile(call.slot)];
    return this.#spawnsProcess(["exec", "--detach", ...process, ...place], call, streams);
  }

  /**
   * Lets the init process go on. crun's own `start` does exactly this: one byte into a fifo that init reads, 0.1 s
   * earlier than by starting a process. Source: crun 1.8 libcrun_status_write_exec_fifo.
   */
  start(id: string): void {
    const fifo = join(this.#options.stateDir, id, "exec.fifo");
    let fd: number;
    try {
      fd = openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
    } catch (thrown) {
      if (isErrnoException(thrown) && thrown.code === "ENXIO") {
        throw new HearthError("failed-precondition", `start container ${id}: its init process has ended`);
      }
      throw toHearthError(thrown, `start container ${id}`);
    }
    try {
      unlinkSync(fifo);
      writeSync(fd, "0");
    } catch (thrown) {
      throw toHearthError(thrown, `start container ${id}`);
    } finally {
      closeSync(fd);
    }
  }

  /** `start` by crun itself, for what only it does: poststart hooks. */
  async startWithHooks(call: CrunCall): Promise<void> {
    await this.#run(["start", call.id], call, undefined);
  }

  /** Changes limits of a running container; `resourcesFile` is OCI JSON. */
  async update(call: CrunCall, resourcesFile: string): Promise<void> {
    await this.#run(["update", "--resources", resourcesFile, call.id], call, undefined);
  }

  /** Kills and removes whatever crun knows of the container, and runs its poststop hooks. */
  async deleteForced(call: CrunCall): Promise<void> {
    await this.#run(["delete", "--force", call.id], call, undefined);
  }

  /** Removes crun's state of a container whose processes and cgroup have gone: plain files, no mounts. */
  removeState(id: string): void {
    rmSync(join(this.#options.stateDir, id), { recursive: true, force: true });
  }

  async #spawnsProcess(command: readonly string[], call: CrunCall, streams: CrunStreams): Promise<number> {
    const { stdio, preserved } = streams;
    const pidFile = call.bundle.pidFile(call.slot);
    const console = stdio.kind === "terminal" ? ["--console-socket", stdio.consoleSocket] : [];
    const fds = preserved.length === 0 ? [] : [`--preserve-fds=${preserved.length}`];
    try {
      await this.#run([...command, ...console, ...fds, "--pid-file", pidFile, call.id], call, streams);
      return parsePid(readFileSync(pidFile, "utf8"), pidFile);
    } finally {
      rmSync(pidFile, { force: true });
    }
  }

  async #run(args: readonly string[], call: CrunCall, streams: CrunStreams | undefined): Promise<void> {
    const { program, stateDir, cgroupManager, startUnprotected } = this.#options;
    const log = call.bundle.crunLog(call.slot);
    const command = [
      program,
      "--root",
      stateDir,
      `--cgroup-manager=${cgroupManager}`,
      `--log=${log}`,
      ...args,
    ] as const;
    const child = startUnprotected(() =>
      spawnProcess({
        argv: insideTimeNamespace(call.timeNamespace, log, command, streams?.preserved.length),
        stdio: streams === undefined ? [] : descriptorsOf(streams),
      }),
    );
    try {
      const status = await endOf(child, `crun ${args[0]} of container ${call.id}`);
      const said = readLog(log);
      if (status.kind === "exited" && status.code === 0) {
        if (said !== "") this.#options.log.warn("crun", { command: args[0], container: call.id, said });
        return;
      }
      throw crunError(args[0] ?? "", call, said === "" ? describeExit(status) : said);
    } finally {
      rmSync(log, { force: true });
    }
  }
}

function descriptorsOf({ stdio, preserved }: CrunStreams): (Fd | "ignore")[] {
  if (stdio.kind === "terminal") return ["ignore", "ignore", "ignore", ...preserved];
  return [stdio.stdin, stdio.stdout, stdio.stderr, ...preserved];
}

async function endOf(child: ChildProcess, step: string): Promise<Awaited<ChildProcess["exited"]>> {
  try {
    return await withDeadline(step, child.exited, { timeoutMs: CRUN_TIMEOUT_MS });
  } catch (thrown) {
    await terminate(child, { graceMs: 0 });
    throw thrown;
  }
}

function parsePid(text: string, file: string): number {
  const pid = Number(text.trim());
  if (!Number.isInteger(pid) || pid <= 0) throw new HearthError("internal", `read pid from ${file}: ${text.trim()}`);
  return pid;
}

/** crun's log in its text format, "<time>: message" a line, without the times. */
function readLog(path: string): string {
  let text: string;
  try {
    text = readFileSync(path, "utf8").slice(0, CRUN_LOG_BYTES_MAX);
  } catch (thrown) {
    if (isNotFound(thrown)) return "";
    throw toHearthError(thrown, `read ${path}`);
  }
  return logMessages(text).join("; ");
}

export function logMessages(log: string): string[] {
  return log
    .split("\n")
    .map((line) => line.replace(/^\d{4}-\d\d-\d\dT[\d:.]+Z:? */, "").trim())
    .filter((line) => line !== "");
}

/** What crun said, as an error with a code. The messages are those of crun 1.8. */
export function crunError(command: string, call: Pick<CrunCall, "id" | "program">, said: string): HearthError {
  const missing = /executable file `([^`]*)` not found/.exec(said);
  if (missing !== null) return programNotFound(call.program ?? missing[1] ?? "", said);
  const denied = /open executable: (.*)/.exec(said);
  if (denied !== null) return programNotExecutable(call.program ?? "", denied[1] ?? said);
  const [, directory, reason] = /^chdir `(.*)`: (.*)$/.exec(said) ?? [];
  if (directory !== undefined && reason !== undefined) return wrongDirectory(directory, reason);
  return new HearthError(codeOfMessage(said), `${command} container ${call.id}: ${said}`);
}

function codeOfMessage(said: string): ErrorCode {
  if (/the container .* is (?:not running|paused)|is not in .* state/.test(said)) return "failed-precondition";
  if (/already exists/.test(said)) return "already-exists";
  if (/status`: No such file or directory/.test(said)) return "not-found";
  if (/Operation not permitted|Permission denied/.test(said)) return "permission-denied";
  return "internal";
}
