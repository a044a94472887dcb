/**
 * `hearth oom-bait DIR`: takes memory in a cgroup of the host until the kernel's OOM killer, whose first choice it is, ends it.
 * Prints the limit that it has set for that; whoever started it puts back what was there (host-oom.ts).
 */
import { readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { describeError, HearthError, isErrnoException, isNotFound } from "../errors.ts";
import { OOM_BAIT_BYTES } from "../limits.ts";
import { swellResidentMemory } from "../sys/memory-file.ts";
import { addToHostCgroup } from "./cgroup.ts";
import { memoryFilesOf } from "./host-memory.ts";

const CHUNK_BYTES = 1024 * 1024;
const PAGE_BYTES = 4096;
/** A score as for so much more memory as the cgroup may have. Source: proc_pid_oom_score_adj(5). */
const SCORE_MAX = "1000";

/** Resolves with an exit status only when it has failed. */
export async function oomBaitMain([dir = ""]: readonly string[]): Promise<number> {
  try {
    writeFileSync("/proc/self/oom_score_adj", SCORE_MAX);
    // That alone is too little beside a VM whose memory is counted elsewhere, in the pool's cgroup.
    swellResidentMemory(Math.max(...residentMemoryOf(dir)));
    addToHostCgroup([dir], process.pid);
    const files = memoryFilesOf([dir]);
    if (files === undefined)
      throw new HearthError("invalid-argument", `take memory in ${dir}: it has no limit of memory`);
    const limitPath = join(dir, files.limit);
    const used = Number(readFileSync(join(dir, files.usage), "utf8"));
    const limit = readFileSync(limitPath, "utf8").trim();
    const bytes = Math.min(used + OOM_BAIT_BYTES, limit === "max" ? Number.POSITIVE_INFINITY : Number(limit));
    writeFileSync(limitPath, String(bytes));
    writeSync(1, readFileSync(limitPath));
    takeMemory(bytes);
    throw new HearthError("internal", `take memory in ${dir}: its limit does not hold`);
  } catch (thrown) {
    writeSync(2, `hearth oom-bait: ${describeError(thrown)}\n`);
    return 1;
  }
}

/** Bytes of each process in the cgroup, those included that are counted elsewhere. */
function residentMemoryOf(dir: string): number[] {
  const pids = readFileSync(join(dir, "cgroup.procs"), "utf8").split("\n").filter(Boolean);
  return [0, ...pids.map((pid) => residentPages(pid) * PAGE_BYTES)];
}

function residentPages(pid: string): number {
  try {
    return Number(readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1]);
  } catch (thrown) {
    // It has ended meanwhile.
    if (isNotFound(thrown) || (isErrnoException(thrown) && thrown.code === "ESRCH")) return 0;
    throw thrown;
  }
}

/** All that the cgroup may have, and a little more. */
function takeMemory(limitBytes: number): void {
  const taken: Uint8Array[] = [];
  while (taken.length * CHUNK_BYTES <= limitBytes) taken.push(new Uint8Array(CHUNK_BYTES).fill(1));
}
