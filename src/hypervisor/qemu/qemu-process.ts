/** The QEMU process: started by us, or found running; how it ended, and what it and the guest's console said last. */
import { readFileSync, statSync } from "node:fs";
import { HearthError, toHearthError } from "../../errors.ts";
import { DEVICE_SOCKET_BACKLOG, GUEST_LOG_BYTES_MAX, QEMU_LOG_TAIL_BYTES } from "../../limits.ts";
import { CapturedOutput } from "../../sys/captured-output.ts";
import { type ChildProcess, type ExitStatus, spawnProcess, terminate } from "../../sys/process.ts";
import { identifyProcess, type ProcessIdentity, processExit, signalProcess } from "../../sys/process-identity.ts";
import { listenSocket } from "../../sys/scm.ts";
import { SIGKILL, signalName } from "../../sys/signals.ts";
import type { BootOptions, HypervisorEnd } from "../interface.ts";
import { qemuArguments } from "./argv.ts";
import { missingQemu } from "./version.ts";

/** Disposing it kills QEMU and waits for its end. */
export interface QemuProcess extends AsyncDisposable {
  readonly identity: ProcessIdentity;
  /** Never rejects. */
  readonly ended: Promise<HypervisorEnd>;
}

function imageBytes(image: string): number {
  if (image === "") return 0;
  try {
    return statSync(image).size;
  } catch (thrown) {
    throw toHearthError(thrown, `find guest image ${image}`);
  }
}

export type LogPaths = Pick<BootOptions, "qemuLog" | "consoleLog">;

/**
 * Starts QEMU in a session of its own, so that no terminal's signals reach it. Its sockets listen when this returns.
 * Nothing is left when it fails.
 */
export async function startQemu(options: BootOptions): Promise<QemuProcess> {
  const argv = qemuArguments(options, imageBytes(options.image));
  await using undo = new AsyncDisposableStack();
  const console = undo.use(CapturedOutput.open(options.consoleLog, GUEST_LOG_BYTES_MAX));
  const errors = undo.use(CapturedOutput.open(options.qemuLog, GUEST_LOG_BYTES_MAX));
  using qmp = listenSocket(options.qmpSocket, DEVICE_SOCKET_BACKLOG);
  using agent = options.vsock === undefined ? listenSocket(options.agentSocket, DEVICE_SOCKET_BACKLOG) : undefined;
  let child: ChildProcess;
  try {
    child = spawnProcess({
      argv,
      // In the order of QMP_LISTEN_FD, AGENT_LISTEN_FD or VSOCK_FD, and MEMORY_FD.
      stdio: [
        ...(["ignore", console.writeEnd, errors.writeEnd, qmp.fd, agent?.fd ?? options.vsock?.fd ?? "ignore"] as const),
        ...(options.memoryFd === undefined ? [] : [options.memoryFd]),
      ],
      detached: true,
    });
  } catch (thrown) {
    throw missingQemu(thrown, options.qemuPath);
  }
  console.closeWriteEnd();
  errors.closeWriteEnd();
  const outputs = undo.move();
  const ended = child.exited.then(async (status) => {
    await Promise.all([console.drain(), errors.drain()]);
    await outputs.disposeAsync();
    return endOf(status, errors.tail(QEMU_LOG_TAIL_BYTES), console.tail(QEMU_LOG_TAIL_BYTES));
  });
  return {
    identity: identifyProcess(child.pid),
    ended,
    async [Symbol.asyncDispose]() {
      await terminate(child, { graceMs: 0 });
      await ended;
    },
  };
}

/** A QEMU that somebody else started; its exit status is not to be known, its logs end where their reader ended. */
export function foundQemu(identity: ProcessIdentity, logs: LogPaths): QemuProcess {
  const ended = processExit(identity).then(
    (): HypervisorEnd => ({
      exitCode: null,
      signal: null,
      logTail: joinTails(tail(logs.qemuLog), tail(logs.consoleLog)),
    }),
  );
  return {
    identity,
    ended,
    async [Symbol.asyncDispose]() {
      signalProcess(identity, SIGKILL);
      await ended;
    },
  };
}

function endOf(status: ExitStatus, errors: string, console: string): HypervisorEnd {
  return {
    exitCode: status.kind === "exited" ? status.code : null,
    signal: status.kind === "signaled" ? signalName(status.signal) : null,
    logTail: joinTails(errors, console),
  };
}

function joinTails(errors: string, console: string): string {
  return [errors, console === "" ? "" : `guest console:\n${console}`].filter((part) => part !== "").join("\n");
}

function tail(path: string): string {
  try {
    return readFileSync(path).subarray(-QEMU_LOG_TAIL_BYTES).toString("utf8").trim();
  } catch {
    return "";
  }
}

/** "exit status 1", "signal SIGKILL", or "ended" for a QEMU that was not our child; then the logs. */
export function describeEnd(end: HypervisorEnd): string {
  const status = end.exitCode === null ? "ended" : `exit status ${end.exitCode}`;
  const how = end.signal === null ? status : `signal ${end.signal}`;
  return end.logTail === "" ? how : `${how}: ${end.logTail}`;
}

export function endError(step: string, end: HypervisorEnd, cause?: unknown): HearthError {
  return new HearthError("unavailable", `${step}: qemu has ended: ${describeEnd(end)}`, {
    facts: { exitCode: end.exitCode ?? undefined, signal: end.signal ?? undefined },
    ...(cause === undefined ? {} : { cause }),
  });
}
