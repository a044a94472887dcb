/** Starts a shim beside the making of its process, and attaches it: with our own stdio, or with a new pseudo-terminal. */
import { writeSync } from "node:fs";
import { DeadlineError, HearthError, isErrnoException, toHearthError } from "../../errors.ts";
import { SHIM_READY_TIMEOUT_MS, SHIM_REPORT_BYTES_MAX } from "../../limits.ts";
import { addToHostCgroup } from "../../sandbox/cgroup.ts";
import { formatShimPlace, type ShimLaunch, type ShimPlace, shimArgs } from "../../shim/launch.ts";
import { asFd, type Fd, isOpen, socketpair } from "../../sys/fd.ts";
import { FdReader } from "../../sys/fd-reader.ts";
import { inNewNetns } from "../../sys/namespace.ts";
import { type ChildProcess, describeExit, selfExec, spawnProcess, terminate } from "../../sys/process.ts";
import { identifyProcess } from "../../sys/process-identity.ts";
import type { ProcessIdentity } from "../../sys/process-stat.ts";
import type { BundleNetns } from "./bundle.ts";

export interface ShimStart {
  readonly launch: ShimLaunch;
  /** Standard input, output and error of the shim; undefined: our own. The caller keeps its copies. */
  readonly stdio: readonly [Fd, Fd, Fd] | undefined;
  readonly netns: BundleNetns;
  /** It gets a pid namespace of its own. */
  readonly ownPids: boolean;
  /** Host cgroup directories it is moved into at once. */
  readonly cgroupDirs: readonly string[];
  /** What it carries to the process beside the standard streams, as `launch` says. The caller keeps its copies. */
  readonly preserved: readonly Fd[];
  readonly signal: AbortSignal;
}

/** A shim that gets ready while its process is still being made; until it is attached, disposing of it ends it. */
export interface PendingShim extends AsyncDisposable {
  readonly identity: ProcessIdentity;
  readonly child: ChildProcess;
  /** The process exists now: resolves when the shim owns it and is in that place, if there is one. */
  attach(place?: ShimPlace): Promise<void>;
  /**
   * Lets the shim end before we do. Without this it ends only after we have: its exit status is for whoever adopts it,
   * and as long as we live it would be ours to reap.
   */
  letGo(): void;
}

/** Starts a shim at once; what it loads and connects to is ready by the time there is a process to attach it to. */
export async function spawnShim(start: ShimStart): Promise<PendingShim> {
  const [ours, shims] = socketpair();
  const stream = new FdReader(ours);
  let child: ChildProcess;
  try {
    child = spawnInNetns(start, shims.fd);
  } catch (thrown) {
    stream.close();
    throw thrown;
  } finally {
    shims.close();
  }
  let attached = false;
  const dispose = async (): Promise<void> => {
    if (attached) return;
    stream.close();
    await terminate(child, { graceMs: 0 });
  };
  try {
    addToHostCgroup(start.cgroupDirs, child.pid);
    const identity = identifyProcess(child.pid);
    const attach = async (place?: ShimPlace): Promise<void> => {
      tellToAttach(stream.fd, place);
      await waitUntilReady(stream, child, start.signal);
      attached = true;
    };
    return { identity, child, attach, letGo: () => stream.close(), [Symbol.asyncDispose]: dispose };
  } catch (thrown) {
    await dispose();
    throw thrown;
  }
}

/** One short line, which a socket that nobody wrote to yet takes at once. A shim that has died says why in its report. */
function tellToAttach(fd: Fd, place: ShimPlace | undefined): void {
  try {
    writeSync(fd, `${formatShimPlace(place)}\n`);
  } catch (thrown) {
    if (!isErrnoException(thrown) || thrown.code !== "EPIPE") throw toHearthError(thrown, "tell shim to attach");
  }
}

const NEWLINE = 10;

function spawnInNetns({ launch, stdio, netns, ownPids, preserved }: ShimStart, report: Fd): ChildProcess {
  const spawn = (): ChildProcess =>
    spawnProcess({
      argv: selfExec(shimArgs(launch)),
      stdio: [...(stdio ?? [ownFd(0), ownFd(1), ownFd(2)]), report, ...preserved],
      // With our own terminal it stays in our process group, which the terminal tells of window size changes.
      detached: launch.terminal !== "shared",
      ownPids,
      ...(netns.kind === "path" ? { netns: netns.path } : {}),
    });
  return netns.kind === "new" ? inNewNetns(spawn) : spawn();
}

function ownFd(number: 0 | 1 | 2): Fd | "ignore" {
  return isOpen(number) ? asFd(number) : "ignore";
}

/** One line of JSON. A shim that dies first closes the socket without a line. */
async function waitUntilReady(reader: FdReader, child: ChildProcess, signal: AbortSignal): Promise<void> {
  const timeout = AbortSignal.timeout(SHIM_READY_TIMEOUT_MS);
  const either = AbortSignal.any([signal, timeout]);
  const chunks: Uint8Array[] = [];
  let length = 0;
  try {
    for (
      let chunk = await reader.read(undefined, either);
      chunk !== null;
      chunk = await reader.read(undefined, either)
    ) {
      chunks.push(chunk);
      length += chunk.length;
      if (chunk.at(-1) === NEWLINE) break;
      if (length > SHIM_REPORT_BYTES_MAX) throw new HearthError("internal", "start shim: its report is too long");
    }
  } catch (thrown) {
    if (timeout.aborted && !signal.aborted) throw new DeadlineError("shim to be ready", SHIM_READY_TIMEOUT_MS);
    throw thrown;
  }
  const line = Buffer.concat(chunks).toString("utf8").trim();
  if (line === "")
    throw new HearthError("internal", `start shim: ${describeExit(await child.exited)} before it was ready`);
  const failure = shimFailure(line);
  if (failure !== undefined) throw new HearthError("unavailable", `start shim: ${failure}`);
}

/** What went wrong, or undefined when the shim said that it is ready. */
function shimFailure(line: string): string | undefined {
  let report: unknown;
  try {
    report = JSON.parse(line);
  } catch {
    return `unreadable report ${JSON.stringify(line.slice(0, 200))}`;
  }
  if (typeof report !== "object" || report === null) return "unreadable report";
  if ("ready" in report && report.ready === true) return undefined;
  return "error" in report && typeof report.error === "string" ? report.error : "unreadable report";
}
