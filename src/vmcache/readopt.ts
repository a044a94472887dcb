/** What a starting pool server finds on the host: idle VMs of an earlier server to take over or to end. */
import { describeError, HearthError } from "../errors.ts";
import { connectIdleVm, endSandboxProcess, type IdleVm } from "../factory/idle-vm.ts";
import type { Log } from "../log.ts";
import { vmPaths } from "../paths.ts";
import { RemoteError } from "../rpc/status.ts";
import { isAlive } from "../sys/process-identity.ts";
import { vmIds } from "../vm/collect.ts";
import { readVmRecord, type VmRecord } from "../vm/vm-record.ts";

export interface ReadoptOptions {
  readonly runDir: string;
  /** How many are wanted at most, by the hex digest of their identity. */
  readonly wanted: ReadonlyMap<string, number>;
  readonly log: Log;
  /** Aborts when the server is told to end: VMs that have not answered until then are left alone. */
  readonly signal: AbortSignal;
  /** Once it aborts, VMs that are to end are killed. */
  readonly kill: AbortSignal;
}

export interface FoundVms {
  /** Idle, of an identity that is wanted, the newest first; the caller owns them. */
  readonly wanted: readonly IdleVm[];
  /** Resolves when the idle VMs that are not wanted have been ended; never rejects. */
  readonly ended: Promise<void>;
}

/** Leaves alone what is booting, leased or adopted, and what is dead: the first three have owners, the last is an orphan. */
export async function findIdleVms(options: ReadoptOptions): Promise<FoundVms> {
  const { runDir, log, kill } = options;
  const records = vmIds(runDir).flatMap((vmId) => idleRecord(runDir, vmId, log));
  const found = await Promise.all(records.map((record) => connectOrEnd(record, options)));
  const vms = found.flatMap((vm) => (vm === undefined ? [] : [vm]));
  vms.sort((a, b) => b.facts.readyAtMs - a.facts.readyAtMs);
  const left = new Map(options.wanted);
  const wanted: IdleVm[] = [];
  const unwanted: Promise<void>[] = [];
  for (const vm of vms) {
    const { vmId, identity } = vm.facts;
    const count = left.get(identity);
    if (count !== undefined && count > 0) {
      left.set(identity, count - 1);
      wanted.push(vm);
      continue;
    }
    log.info("idle vm ended", { vm: vmId, why: count === undefined ? "other identity" : "surplus" });
    unwanted.push(vm.destroy(kill));
  }
  return { wanted, ended: Promise.all(unwanted).then(() => {}) };
}

function idleRecord(runDir: string, vmId: string, log: Log): VmRecord[] {
  try {
    const record = readVmRecord(vmPaths(runDir, vmId).record);
    return record !== undefined && record.state === "idle" && isAlive(record.sandbox) ? [record] : [];
  } catch (thrown) {
    log.warn("vm record not usable", { vm: vmId, error: describeError(thrown) });
    return [];
  }
}

/** A process that says it is idle and then does not answer is no good to anybody. */
async function connectOrEnd(record: VmRecord, options: ReadoptOptions): Promise<IdleVm | undefined> {
  const { runDir, log, signal, kill } = options;
  const { vmId, sandbox } = record;
  try {
    return await connectIdleVm({ runDir, vmId }, log, signal);
  } catch (thrown) {
    log.warn("idle vm not usable", { vm: vmId, error: describeError(thrown) });
    // Leased since its record was read: it answered, and is in use.
    if (isInUse(thrown) || signal.aborted) return undefined;
    try {
      await endSandboxProcess({ runDir, vmId }, sandbox, log, { kill });
    } catch (failure) {
      log.error("end idle vm", { vm: vmId, error: describeError(failure) });
    }
    return undefined;
  }
}

function isInUse(thrown: unknown): boolean {
  return thrown instanceof HearthError && !(thrown instanceof RemoteError) && thrown.code === "failed-precondition";
}
