/** `hearth shim`: the process whose pid engines wait for. Gets ready, waits on descriptor 3 for its process, and carries it. */
import { readSync, writeSync } from "node:fs";
import { describeError } from "../errors.ts";
import { SANDBOX_CONNECT_TIMEOUT_MS } from "../limits.ts";
import { silentLog } from "../log.ts";
import { connectSandbox } from "../rpc/sandbox-connection.ts";
import { asFd, dup, type Fd, isOpen, OwnedFd } from "../sys/fd.ts";
import { mountProc } from "../sys/mount.ts";
import { enterMountNamespace } from "../sys/namespace.ts";
import { isTerminal, makeRaw, ownTerminal, setControllingTerminal } from "../sys/pty.ts";
import { parseShimArgs, parseShimPlace, SHIM_PRESERVED_FD, SHIM_REPORT_FD, type ShimLaunch } from "./launch.ts";
import { EXIT_STATUS_LOST, startShim } from "./shim.ts";
import { takeStandardFd } from "./standard-fds.ts";

const NEWLINE = 10;

/** Resolves with the exit status of the process it stands for. */
export async function shimMain(args: readonly string[]): Promise<number> {
  let launch: ShimLaunch;
  try {
    launch = parseShimArgs(args);
  } catch (thrown) {
    // Started by hand: descriptor 3 is somebody else's then.
    writeSync(2, `hearth shim: ${describeError(thrown)}\n`);
    return EXIT_STATUS_LOST;
  }
  try {
    return await carryProcess(launch);
  } catch (thrown) {
    report({ error: describeError(thrown) });
    return EXIT_STATUS_LOST;
  }
}

async function carryProcess(launch: ShimLaunch): Promise<number> {
  const { containerId, execId } = launch;
  const hasTerminal = launch.terminal !== "none";
  if (launch.terminal === "session") setControllingTerminal(asFd(0));
  using terminal = terminalOf(launch);
  using _raw = terminal === undefined ? undefined : makeRaw(terminal.fd);
  const plainNewlines = launch.terminal === "shared" && !isTerminal(asFd(1));
  const [stdin, stdout, stderr] = [takeStandardFd(0), takeStandardFd(1), takeStandardFd(2)];
  if (hasTerminal) stderr?.close();
  await using connection = await connectSandbox(launch.socket, { timeoutMs: SANDBOX_CONNECT_TIMEOUT_MS });
  const line = waitForProcess();
  if (line === undefined) return EXIT_STATUS_LOST;
  const place = parseShimPlace(line);
  const shim = startShim({
    target: { sandbox: connection.sandbox, containerId, execId },
    stdio: { stdin, stdout, stderr: hasTerminal ? undefined : stderr },
    preserved: launch.preserved.map((use, index) => ({ use, fd: new OwnedFd(asFd(SHIM_PRESERVED_FD + index)) })),
    terminal: terminal?.fd,
    plainNewlines,
    log: silentLog,
  });
  await shim.ready;
  // Everything that is found by its path has been opened. Who enters the container by our pid gets there too.
  if (place !== undefined) {
    enterMountNamespace(place.mountNamespace);
    for (const path of place.procPaths) mountProc(path);
  }
  report({ ready: true });
  const exitStatus = await shim.exited;
  waitForRelease();
  return exitStatus;
}

/** A terminal of its own is all of its standard streams; of the one that it shares they may be anything else. */
function terminalOf({ terminal }: ShimLaunch): OwnedFd | undefined {
  if (terminal === "none") return undefined;
  return terminal === "session" ? dup(asFd(0)) : ownTerminal();
}

/** Blocks until the runtime has closed the socket, which it does within the bounds of what it does after `ready`. */
function waitForRelease(): void {
  while (isOpen(SHIM_REPORT_FD) && readSync(SHIM_REPORT_FD, new Uint8Array(1)) > 0);
}

/**
 * Blocks until the runtime says that the process exists, and returns its line; undefined when it has given up.
 * Nothing else happens in this program until then, so a blocking read is the simplest way to wait.
 */
function waitForProcess(): string | undefined {
  const line: number[] = [];
  const byte = new Uint8Array(1);
  while (readSync(SHIM_REPORT_FD, byte) === 1) {
    const [value = NEWLINE] = byte;
    if (value === NEWLINE) return Buffer.from(line).toString("utf8");
    line.push(value);
  }
  return undefined;
}

function report(line: { readonly ready: true } | { readonly error: string }): void {
  const fd: Fd = asFd(SHIM_REPORT_FD);
  if (!isOpen(fd)) return;
  try {
    writeSync(fd, `${JSON.stringify(line)}\n`);
  } catch {
    // Whoever started us has gone; what we do next does not depend on it.
  }
}
