/** One container's cgroup (version 2): its processes, killing, freezing, removing. Paths are directories in /sys/fs/cgroup. */
import { readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DeadlineError, isErrnoException, isNotFound, toHearthError } from "../../errors.ts";
import { CGROUP_REMOVE_ATTEMPTS_MAX, CGROUP_REMOVE_RETRY_MS, FREEZE_TIMEOUT_MS } from "../../limits.ts";
import { sleep } from "../../util/wait.ts";

/** The directory and those below it, parents first. Empty when it is gone. */
export function cgroupTree(dir: string): string[] {
  const found = [dir];
  for (const at of found) {
    try {
      for (const entry of readdirSync(at, { withFileTypes: true })) {
        if (entry.isDirectory()) found.push(join(at, entry.name));
      }
    } catch (thrown) {
      if (!isGone(thrown)) throw toHearthError(thrown, `list cgroup ${at}`);
      if (at === dir) return [];
    }
  }
  return found;
}

/** Pids of the processes in the cgroup and below, as this pid namespace numbers them. */
export function cgroupPids(dir: string): number[] {
  const pids: number[] = [];
  for (const at of cgroupTree(dir)) {
    // A process of another pid namespace that ours cannot see is listed as 0.
    for (const line of (readCgroupFile(at, "cgroup.procs") ?? "").split("\n"))
      if (Number(line) > 0) pids.push(Number(line));
  }
  return pids;
}

/** SIGKILL for every process in the cgroup and below, forks included. */
export function killCgroup(dir: string): void {
  try {
    writeFileSync(join(dir, "cgroup.kill"), "1");
  } catch (thrown) {
    if (!isGone(thrown)) throw toHearthError(thrown, `kill cgroup ${dir}`);
  }
}

/** Resolves when every process is frozen (or may run again). */
export async function freezeCgroup(dir: string, frozen: boolean, signal: AbortSignal): Promise<void> {
  const wanted = frozen ? "1" : "0";
  try {
    writeFileSync(join(dir, "cgroup.freeze"), wanted);
  } catch (thrown) {
    throw toHearthError(thrown, `${frozen ? "freeze" : "thaw"} cgroup ${dir}`);
  }
  const deadline = performance.now() + FREEZE_TIMEOUT_MS;
  for (let pauseMs = 1; flatKeyed(readCgroupFile(dir, "cgroup.events") ?? "").get("frozen") !== wanted; ) {
    if (performance.now() > deadline) throw new DeadlineError(`cgroup ${dir} to freeze`, FREEZE_TIMEOUT_MS);
    await sleep(pauseMs, signal);
    pauseMs = Math.min(pauseMs * 2, CGROUP_REMOVE_RETRY_MS);
  }
}

/** Removes the cgroup and those below it; its processes have been killed, and the kernel may need a moment to let go. */
export async function removeCgroup(dir: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      for (const at of cgroupTree(dir).reverse()) rmdirSync(at);
      return;
    } catch (thrown) {
      if (isGone(thrown)) return;
      const busy = isErrnoException(thrown) && thrown.code === "EBUSY";
      if (!busy || attempt >= CGROUP_REMOVE_ATTEMPTS_MAX) throw toHearthError(thrown, `remove cgroup ${dir}`);
      await sleep(Math.min(attempt, CGROUP_REMOVE_RETRY_MS));
    }
  }
}

/** Content of a file of the cgroup; undefined when there is none: its controller is off, or the cgroup has gone. */
export function readCgroupFile(dir: string, name: string): string | undefined {
  try {
    return readFileSync(join(dir, name), "utf8");
  } catch (thrown) {
    if (isGone(thrown)) return undefined;
    throw toHearthError(thrown, `read ${join(dir, name)}`);
  }
}

/** "key value" lines. */
export function flatKeyed(text: string): Map<string, string> {
  const values = new Map<string, string>();
  for (const line of text.split("\n")) {
    const space = line.indexOf(" ");
    if (space > 0) values.set(line.slice(0, space), line.slice(space + 1));
  }
  return values;
}

/** A removed cgroup says ENOENT, or ENODEV to those who had it open. */
function isGone(thrown: unknown): boolean {
  return isNotFound(thrown) || (isErrnoException(thrown) && thrown.code === "ENODEV");
}
