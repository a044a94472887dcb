/** Starts QEMU for a VM and connects its QMP; readiness is the connection or the child's end, whichever comes first. */
import { closeSync, openSync, readFileSync } from "node:fs";
import { HearthError } from "../../errors.ts";
import { QEMU_CONNECT_RETRY_MS, QEMU_LOG_TAIL_BYTES } from "../../limits.ts";
import type { Log } from "../../log.ts";
import { asFd } from "../../sys/fd.ts";
import { connectPassingFds } from "../../sys/fd-passing-stream.ts";
import { type ChildProcess, spawnProcess } from "../../sys/process.ts";
import { identifyProcess } from "../../sys/process-identity.ts";
import { signalName } from "../../sys/signals.ts";
import { sleep } from "../../util/wait.ts";
import type { BootOptions, HypervisorEnd } from "../interface.ts";
import { qemuArguments } from "./argv.ts";
import { Qemu } from "./qemu.ts";
import { QmpClient } from "./qmp/client.ts";

/** The guest is booting when this resolves. The caller owns the result; nothing is left when it fails. */
export async function launchQemu(
  options: BootOptions,
  context: { readonly log: Log; readonly signal: AbortSignal },
): Promise<Qemu> {
  const child = startQemu(options);
  const ended = child.exited.then((): HypervisorEnd => endOf(child, options));
  try {
    const qmp = await connectQmp(options, child, context.signal);
    context.log.debug("qemu started", { pid: child.pid });
    return new Qemu({ options, child, process: identifyProcess(child.pid), qmp, ended, log: context.log });
  } catch (error) {
    child.kill(9);
    const end = await ended;
    if (end.signal === "SIGKILL") throw error;
    throw new HearthError("internal", `start qemu: ${describeEnd(end)}`, {
      cause: error,
      facts: { argv: options.qemuPath },
    });
  }
}

function startQemu(options: BootOptions): ChildProcess {
  const log = openSync(options.qemuLog, "a", 0o600);
  try {
    return spawnProcess({
      argv: qemuArguments(options),
      stdio: ["ignore", asFd(log), asFd(log)],
      detached: true,
    });
  } finally {
    closeSync(log);
  }
}

async function connectQmp(options: BootOptions, child: ChildProcess, signal: AbortSignal): Promise<QmpClient> {
  for (;;) {
    if (child.status !== undefined) throw new HearthError("internal", "qemu ended before its monitor answered");
    try {
      return await QmpClient.open(await connectPassingFds(options.qmpSocket, { signal }), signal);
    } catch (error) {
      // The socket is not there yet, or there and not listening.
      if (!(error instanceof HearthError) || (error.code !== "not-found" && error.code !== "unavailable")) throw error;
    }
    await Promise.race([sleep(QEMU_CONNECT_RETRY_MS, signal), child.exited]);
  }
}

function endOf(child: ChildProcess, options: BootOptions): HypervisorEnd {
  const status = child.status;
  return {
    exitCode: status?.kind === "exited" ? status.code : null,
    signal: status?.kind === "signaled" ? signalName(status.signal) : null,
    logTail: [tail(options.qemuLog), tail(options.consoleLog)].filter((text) => text !== "").join("\n"),
  };
}

export function describeEnd(end: HypervisorEnd): string {
  const how = end.signal === null ? `exit status ${end.exitCode}` : `signal ${end.signal}`;
  return end.logTail === "" ? how : `${how}: ${end.logTail}`;
}

function tail(path: string): string {
  try {
    return readFileSync(path).subarray(-QEMU_LOG_TAIL_BYTES).toString("utf8").trim();
  } catch {
    return "";
  }
}
