/** Which containers have lost a process to the OOM killer: counters of their cgroups, watched, and handed out one by one. */
import { join } from "node:path";
import { describeError, HearthError } from "../../errors.ts";
import { OOM_EVENTS_MAX } from "../../limits.ts";
import type { Log } from "../../log.ts";
import { FileWatcher, type WatchId } from "../../sys/inotify.ts";
import { flatKeyed, readCgroupFile } from "./cgroup.ts";

interface Watched {
  readonly containerId: string;
  readonly cgroupDir: string;
  kills: number;
}

export class OomEvents {
  readonly #log: Log;
  readonly #watched = new Map<WatchId, Watched>();
  /** Container ids, oldest first. */
  readonly #queue: string[] = [];
  readonly #waiting = new Set<(containerId: string) => void>();
  #watcher: FileWatcher | undefined;

  constructor(log: Log) {
    this.#log = log;
  }

  /** Without a memory controller there is nothing to watch. */
  watch(containerId: string, cgroupDir: string): void {
    if (readCgroupFile(cgroupDir, "memory.events") === undefined) return;
    if (this.#watcher === undefined) {
      this.#watcher = new FileWatcher();
      void this.#run(this.#watcher);
    }
    const id = this.#watcher.add(join(cgroupDir, "memory.events"));
    this.#watched.set(id, { containerId, cgroupDir, kills: oomKills(cgroupDir) });
  }

  /** Before the cgroup goes: what has happened until now is still told. */
  unwatch(containerId: string): void {
    for (const id of this.#look(containerId)) {
      this.#watched.delete(id);
      this.#watcher?.remove(id);
    }
  }

  /** What has happened until now is told, whether the kernel has said so yet or not. */
  look(containerId: string): void {
    this.#look(containerId);
  }

  #look(containerId: string): WatchId[] {
    const ids = [...this.#watched].filter(([, watched]) => watched.containerId === containerId).map(([id]) => id);
    for (const id of ids) this.#changed(id);
    return ids;
  }

  /** The next container that lost a process, or lost one since the last call. */
  next(signal: AbortSignal): Promise<string> {
    if (signal.aborted) return Promise.reject(signal.reason);
    const known = this.#queue.shift();
    if (known !== undefined) return Promise.resolve(known);
    return new Promise((resolve, reject) => {
      const settle = (step: () => void): void => {
        signal.removeEventListener("abort", onAbort);
        this.#waiting.delete(deliver);
        step();
      };
      const deliver = (containerId: string): void => settle(() => resolve(containerId));
      const onAbort = (): void => settle(() => reject(signal.reason));
      signal.addEventListener("abort", onAbort, { once: true });
      this.#waiting.add(deliver);
    });
  }

  async #run(watcher: FileWatcher): Promise<void> {
    try {
      for (;;) for (const id of await watcher.next()) this.#changed(id);
    } catch (thrown) {
      this.#log.error("oom watch ended", { error: describeError(thrown) });
    }
  }

  #changed(id: WatchId): void {
    const watched = this.#watched.get(id);
    if (watched === undefined) return;
    const kills = oomKills(watched.cgroupDir);
    if (kills <= watched.kills) return;
    watched.kills = kills;
    this.#log.info("oom kill", { container: watched.containerId, kills });
    const [deliver] = this.#waiting;
    if (deliver !== undefined) deliver(watched.containerId);
    else {
      this.#queue.push(watched.containerId);
      if (this.#queue.length > OOM_EVENTS_MAX) this.#queue.shift();
    }
  }
}

function oomKills(cgroupDir: string): number {
  const count = Number(flatKeyed(readCgroupFile(cgroupDir, "memory.events") ?? "").get("oom_kill") ?? "0");
  if (Number.isNaN(count)) throw new HearthError("internal", `read oom_kill of ${cgroupDir}`);
  return count;
}
