/** Ends and removes what the sandbox process of a VM left behind when it died without doing so itself. */
import { type Dirent, readdirSync } from "node:fs";
import { join } from "node:path";
import { describeError, isNotFound, toHearthError } from "../errors.ts";
import { ORPHAN_EXIT_TIMEOUT_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import { vmPaths } from "../paths.ts";
import { tryLock } from "../sys/lock.ts";
import { mountsUnder, removeTreeWithoutMounts, unmountTree } from "../sys/mount.ts";
import { processExit, signalProcess } from "../sys/process-identity.ts";
import { SIGKILL } from "../sys/signals.ts";
import { readVmRecord, type VmRecord } from "./vm-record.ts";

/**
 * "living": its owner holds the lock, nothing was done. "collected": its processes are killed, its mounts undone and its
 * directory removed. "absent": there is no such VM. Fails when a process does not end or a mount stays busy.
 */
export async function collectVm(runDir: string, vmId: string, log: Log): Promise<"living" | "collected" | "absent"> {
  const paths = vmPaths(runDir, vmId);
  let lock: ReturnType<typeof tryLock>;
  try {
    readdirSync(paths.dir);
    lock = tryLock(paths.lock);
  } catch (error) {
    if (isNotFound(error)) return "absent";
    throw toHearthError(error, `lock VM ${vmId}`);
  }
  if (lock === undefined) return "living";
  await using _lock = lock;
  const record = readRecordOrWarn(paths.record, log);
  for (const process of record?.processes ?? []) {
    if (!signalProcess(process, SIGKILL)) continue;
    log.warn("killed orphan of VM", { vm: vmId, pid: process.pid });
    await processExit(process, AbortSignal.timeout(ORPHAN_EXIT_TIMEOUT_MS));
  }
  if (mountsUnder(paths.dir).length > 0) unmountTree(paths.dir, { detach: true });
  removeTreeWithoutMounts(paths.dir);
  log.warn("collected orphaned VM", { vm: vmId });
  return "collected";
}

/** Every VM directory of the run directory whose owner is gone; returns the ids collected. One that fails is logged and left. */
export async function collectOrphans(runDir: string, log: Log): Promise<string[]> {
  const collected: string[] = [];
  for (const vmId of vmIds(runDir)) {
    try {
      if ((await collectVm(runDir, vmId, log)) === "collected") collected.push(vmId);
    } catch (error) {
      log.error("collect orphaned VM", { vm: vmId, error: describeError(error) });
    }
  }
  return collected;
}

/** Ids of the VM directories, living or not. */
export function vmIds(runDir: string): string[] {
  let entries: Dirent[];
  try {
    entries = readdirSync(join(runDir, "vm"), { withFileTypes: true });
  } catch (error) {
    if (isNotFound(error)) return [];
    throw toHearthError(error, `list VMs of ${runDir}`);
  }
  return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
}

function readRecordOrWarn(path: string, log: Log): VmRecord | undefined {
  try {
    return readVmRecord(path);
  } catch (error) {
    log.warn("VM record is not readable", { path, error: describeError(error) });
    return undefined;
  }
}
