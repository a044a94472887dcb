/** Gives back everything that a container holds outside its record: processes in the VM, the VM, the shim, its cgroup. */
import { DeadlineError, describeError, HearthError } from "../../errors.ts";
import { KILLED_EXIT_TIMEOUT_MS, SANDBOX_EXIT_TIMEOUT_MS, SHIM_EXIT_TIMEOUT_MS } from "../../limits.ts";
import type { Log } from "../../log.ts";
import type { ContainerRecord } from "../../oci/container-record.ts";
import { hasContainer, lendsCgroup } from "../../oci/container-store.ts";
import { connectSandbox, isSandboxGone, type SandboxConnection } from "../../rpc/sandbox-connection.ts";
import { removeHostCgroup } from "../../sandbox/cgroup.ts";
import { processExit, signalProcess } from "../../sys/process-identity.ts";
import type { ProcessIdentity } from "../../sys/process-stat.ts";
import { SIGKILL, SIGTERM } from "../../sys/signals.ts";
import { withDeadline } from "../../util/wait.ts";
import { collectVm } from "../../vm/collect.ts";

export interface ReleaseOptions {
  /** Where the records of containers are. */
  readonly root: string;
  /** Bound of each call to the sandbox process. */
  readonly timeoutMs: number;
  readonly log: Log;
}

/** Idempotent: what is already gone is skipped. Fails when something that lives cannot be ended. */
export async function releaseContainer(record: ContainerRecord, options: ReleaseOptions): Promise<void> {
  const vmEnded = await removeFromVm(record, options);
  if (vmEnded) await endVm(record.vm, options.log);
  await endProcess("shim", record.shim, SHIM_EXIT_TIMEOUT_MS, SIGKILL);
  await removeCgroup(record, vmEnded, options);
  if (vmEnded && record.joined !== undefined) await removeLentCgroup(record.joined, options);
}

/** Waits for the end of a VM that is ending, and clears away what a killed sandbox process left of it. */
export async function endVm(vm: ContainerRecord["vm"], log: Log): Promise<void> {
  await endProcess("sandbox process", vm.sandbox, SANDBOX_EXIT_TIMEOUT_MS, SIGTERM);
  await collectVm(vm.runDir, vm.id, log);
}

/** True when the VM is gone or about to go. */
async function removeFromVm(record: ContainerRecord, { timeoutMs, log }: ReleaseOptions): Promise<boolean> {
  let connection: SandboxConnection;
  try {
    connection = await connectSandbox(record.vm.socket, { timeoutMs });
  } catch (thrown) {
    if (isSandboxGone(thrown)) return true;
    throw thrown;
  }
  await using open = connection;
  try {
    const { vmEnded } = await open.sandbox.deleteContainer({ containerId: record.id, force: true }, { timeoutMs });
    return vmEnded;
  } catch (thrown) {
    // It died while it was asked.
    if (isSandboxGone(thrown)) return true;
    if (!(thrown instanceof HearthError) || thrown.code !== "not-found") throw thrown;
    log.debug("container was already gone from its VM", { id: record.id, error: describeError(thrown) });
    const { containerIds } = await open.sandbox.info({}, { timeoutMs });
    if (containerIds.length > 0) return false;
    await open.sandbox.destroy({}, { timeoutMs });
    return true;
  }
}

/** Waits for a process that should be ending; one that does not in time is ended, with `signal` and at last with KILL. */
export async function endProcess(
  name: string,
  identity: ProcessIdentity,
  timeoutMs: number,
  signal: number,
): Promise<void> {
  if (await endsWithin(identity, timeoutMs)) return;
  signalProcess(identity, signal);
  if (signal !== SIGKILL && (await endsWithin(identity, timeoutMs))) return;
  signalProcess(identity, SIGKILL);
  if (await endsWithin(identity, KILLED_EXIT_TIMEOUT_MS)) return;
  throw new HearthError("deadline-exceeded", `end ${name} ${identity.pid}: it survives SIGKILL`);
}

/**
 * By its pidfd, which waits for all of its threads: a process whose main thread has ended is a zombie in /proc while the
 * others still hold its files and locks.
 */
async function endsWithin(identity: ProcessIdentity, timeoutMs: number): Promise<boolean> {
  if (timeoutMs === 0) return false;
  const waiting = new AbortController();
  try {
    await withDeadline("end of process", processExit(identity, waiting.signal), { timeoutMs });
    return true;
  } catch (thrown) {
    if (thrown instanceof DeadlineError) return false;
    throw thrown;
  } finally {
    waiting.abort();
  }
}

/** The VM outlived the container whose cgroup it ran in. One of that id that is there now, or again, has it for itself. */
async function removeLentCgroup(
  lender: NonNullable<ContainerRecord["joined"]>,
  { root }: ReleaseOptions,
): Promise<void> {
  if (hasContainer(root, lender.id)) return;
  await removeHostCgroup(lender.cgroupDirs);
}

/**
 * The first container of a pod lends its cgroup to the VM; while others use the VM it cannot be removed, and neither
 * with a later container of its id.
 */
async function removeCgroup(record: ContainerRecord, vmEnded: boolean, { root, log }: ReleaseOptions): Promise<void> {
  try {
    await removeHostCgroup(record.cgroupDirs);
  } catch (thrown) {
    if (vmEnded && !lendsCgroup(root, record.id)) throw thrown;
    log.warn("cgroup of deleted container stays, a VM still runs in it", { id: record.id });
  }
}
