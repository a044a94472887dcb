/** Processes of the guest that are not our children: finding and signalling them. */
import { readdirSync, readlinkSync } from "node:fs";
import { HearthError, toHearthError } from "../../errors.ts";
import { identifyProcess, signalProcess } from "../../sys/process-identity.ts";

/** Sends a signal to a process that may be gone by now. */
export function signalPid(pid: number, signal: number): void {
  try {
    signalProcess(identifyProcess(pid), signal);
  } catch (thrown) {
    if (!(thrown instanceof HearthError && thrown.code === "not-found")) throw thrown;
  }
}

/** Every pid in /proc, in order. */
export function allPids(): number[] {
  try {
    return readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .map(Number)
      .sort((left, right) => left - right);
  } catch (thrown) {
    throw toHearthError(thrown, "list processes");
  }
}

/** Pids of the processes that are in the same pid namespace as `pid`, itself included. */
export function pidsInNamespaceOf(pid: number): number[] {
  const namespace = pidNamespace(pid);
  return namespace === undefined ? [] : allPids().filter((other) => pidNamespace(other) === namespace);
}

/** Undefined for a process that has gone or is a zombie. */
function pidNamespace(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`);
  } catch {
    return undefined;
  }
}
