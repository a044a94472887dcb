/**
 * Tells engines of the OOM kills in the guest. They look at the container's cgroup on the host: at the notifications of
 * memory.oom_control in version 1, at oom_kill of memory.events in version 2, and only a kill there moves either. So one is
 * made there: a process of no other use is its victim (oom-bait.ts).
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describeError, HearthError } from "../errors.ts";
import { HOST_OOM_INTERVAL_MS, OOM_BAIT_TIMEOUT_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import { describeExit, selfExec } from "../sys/process.ts";
import { runProcess } from "../sys/run-process.ts";
import { SIGKILL } from "../sys/signals.ts";
import { hostCgroup } from "./cgroup.ts";
import { memoryFilesOf } from "./host-memory.ts";

/** Kept from swap meanwhile, so that memory runs out soon and nobody else's is swapped: by version 1 and by 2. */
const SWAP_FILES = ["memory.swappiness", "memory.swap.max"] as const;

export class HostOom {
  readonly #log: Log;
  readonly #running = new Map<string, Promise<void>>();
  /** When the last one began, by container: performance.now(). */
  readonly #toldAtMs = new Map<string, number>();

  constructor(log: Log) {
    this.#log = log;
  }

  /**
   * A process of the container was killed. Within HOST_OOM_INTERVAL_MS of another one that is not told: engines want to know whether
   * there were any, and a container may bring them about as fast as it likes.
   */
  tell(containerId: string, cgroupsPath: string | undefined): void {
    const now = performance.now();
    if (now - (this.#toldAtMs.get(containerId) ?? Number.NEGATIVE_INFINITY) < HOST_OOM_INTERVAL_MS) return;
    this.#toldAtMs.set(containerId, now);
    const telling = killInCgroup(hostCgroup(cgroupsPath, containerId).map(({ dir }) => dir))
      .catch((thrown: unknown) => {
        this.#log.warn("oom kill is not seen by the engine", { container: containerId, error: describeError(thrown) });
      })
      .finally(() => this.#running.delete(containerId));
    this.#running.set(containerId, telling);
  }

  /** The container has gone. */
  forget(containerId: string): void {
    this.#toldAtMs.delete(containerId);
  }

  /** Resolves when what the container's engine is being told of has been told; never rejects. */
  async told(containerId: string): Promise<void> {
    await this.#running.get(containerId);
  }
}

/** Resolves at once where the cgroups have no limit of memory: nobody looks there. Limits are afterwards what they were. */
export async function killInCgroup(cgroupDirs: readonly string[]): Promise<void> {
  const files = memoryFilesOf(cgroupDirs);
  if (files === undefined) return;
  const { dir } = files;
  const limitPath = join(dir, files.limit);
  const limit = readFileSync(limitPath, "utf8");
  const swap = SWAP_FILES.map((file) => join(dir, file)).find((path) => existsSync(path));
  const swapBefore = swap === undefined ? undefined : readFileSync(swap, "utf8");
  let set = "";
  try {
    if (swap !== undefined) writeFileSync(swap, "0");
    const bait = await runProcess(selfExec(["oom-bait", dir]), { timeoutMs: OOM_BAIT_TIMEOUT_MS });
    set = bait.stdout;
    if (bait.status.kind === "signaled" && bait.status.signal === SIGKILL) return;
    throw new HearthError(
      "internal",
      `kill process in cgroup ${dir}: ${describeExit(bait.status)}: ${bait.stderr.trim()}`,
    );
  } finally {
    // Unless the VM has grown meanwhile, and its new limit is there.
    if (set === "" || readFileSync(limitPath, "utf8") === set) writeFileSync(limitPath, limit);
    if (swap !== undefined && swapBefore !== undefined) writeFileSync(swap, swapBefore);
  }
}
