/**
 * Volumes in the guest's memory: mounted for the first container that has them, they stay as long as the VM, whichever
 * containers come and go. Those that are copies of one on the host are kept as that is.
 */
import { createHash } from "node:crypto";
import type { AgentClient } from "../agent/client/client.ts";
import { describeError, HearthError, isNotFound } from "../errors.ts";
import {
  AGENT_CALL_TIMEOUT_MS,
  MIRROR_ATTEMPTS_MAX,
  MIRROR_LOOK_MS,
  MIRROR_READS_MAX,
  MIRROR_RETRY_MS,
  MIRROR_SETTLE_MS,
} from "../limits.ts";
import type { Log } from "../log.ts";
import { FileWatcher, type WatchId } from "../sys/inotify.ts";
import { sleep } from "../util/wait.ts";
import type { GuestVolume } from "./guest-volume.ts";
import { readVolume, type VolumeFile } from "./mirrored-volume.ts";
import type { Steps } from "./steps.ts";

interface Mirror {
  readonly mountPoint: string;
  readonly hostPath: string;
  /** Of its directories. */
  watches: ReadonlySet<WatchId>;
  /** What the guest has, in short. */
  sent: string;
  /** Why it has not what it should have. */
  failure: string;
}

export class VmVolumes implements Disposable {
  readonly #agent: Pick<AgentClient, "agent">;
  readonly #steps: Steps;
  readonly #log: Log;
  readonly #lookMs: number;
  readonly #mounted = new Set<string>();
  readonly #mirrors = new Map<string, Mirror>();
  readonly #stop = new AbortController();
  #watcher: FileWatcher | undefined;
  #following: Promise<void> | undefined;
  /** There was no watch for a directory, which was told of. */
  #isBlind = false;
  #turns: Promise<void> = Promise.resolve();

  /** `lookMs`: milliseconds after which copies are looked at without a sign of a change. */
  constructor(agent: Pick<AgentClient, "agent">, steps: Steps, log: Log, lookMs = MIRROR_LOOK_MS) {
    this.#agent = agent;
    this.#steps = steps;
    this.#log = log;
    this.#lookMs = lookMs;
  }

  /** Mounts those that are not there yet; copies are as the host's volumes are when this returns, and follow them from then on. */
  async mount(volumes: readonly GuestVolume[]): Promise<void> {
    const missing = volumes.filter(({ mountPoint }) => !this.#mounted.has(mountPoint));
    if (missing.length > 0) {
      const storages = missing.map(({ fsType, mountPoint, options }) => ({
        driver: "ephemeral",
        fstype: fsType,
        source: fsType,
        mountPoint,
        options: [...options],
      }));
      await this.#steps.run("mount-volumes", AGENT_CALL_TIMEOUT_MS, (signal) =>
        this.#agent.agent.createSandbox({ storages }, { signal }),
      );
      for (const { mountPoint } of missing) this.#mounted.add(mountPoint);
    }
    for (const { mountPoint, mirrorOf } of volumes) {
      if (mirrorOf === undefined) continue;
      const mirror = this.#mirrorAt(mountPoint, mirrorOf);
      await this.#steps.run("mirror-volume", AGENT_CALL_TIMEOUT_MS, (signal) => this.#inTurn(mirror, signal));
      this.#following ??= this.#follow();
    }
  }

  [Symbol.dispose](): void {
    this.#stop.abort();
    this.#watcher?.[Symbol.dispose]();
  }

  #mirrorAt(mountPoint: string, hostPath: string): Mirror {
    const known = this.#mirrors.get(mountPoint);
    if (known !== undefined) return known;
    const mirror: Mirror = { mountPoint, hostPath, watches: new Set(), sent: "", failure: "" };
    this.#mirrors.set(mountPoint, mirror);
    return mirror;
  }

  async #follow(): Promise<void> {
    const { signal } = this.#stop;
    try {
      for (;;) {
        const changed = await this.#nextChange(signal);
        for (const mirror of this.#mirrors.values()) {
          if (changed === undefined || !mirror.watches.isDisjointFrom(changed)) await this.#catchUp(mirror, signal);
        }
      }
    } catch (thrown) {
      if (!signal.aborted) this.#log.error("volumes are not followed any longer", { error: describeError(thrown) });
    }
  }

  /** Undefined for any of them: a host has not watches for everybody, so all are looked at now and then. */
  async #nextChange(signal: AbortSignal): Promise<ReadonlySet<WatchId> | undefined> {
    if (this.#watcher === undefined) {
      await sleep(this.#lookMs, signal);
      return undefined;
    }
    const look = AbortSignal.timeout(this.#lookMs);
    let changed: Set<WatchId>;
    try {
      changed = new Set(await this.#watcher.next(AbortSignal.any([signal, look])));
    } catch (thrown) {
      if (look.aborted && !signal.aborted) return undefined;
      throw thrown;
    }
    await sleep(MIRROR_SETTLE_MS, signal);
    return changed;
  }

  /** A failure is tried again, and then told of, once; the next change is followed in any case. */
  async #catchUp(mirror: Mirror, stop: AbortSignal): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      const signal = AbortSignal.any([stop, AbortSignal.timeout(AGENT_CALL_TIMEOUT_MS)]);
      try {
        await this.#inTurn(mirror, signal);
        mirror.failure = "";
        return;
      } catch (thrown) {
        stop.throwIfAborted();
        const isFinal = thrown instanceof HearthError && ["resource-exhausted", "unimplemented"].includes(thrown.code);
        if (isFinal || attempt === MIRROR_ATTEMPTS_MAX) {
          const error = describeError(thrown);
          const facts = { volume: mirror.hostPath, error };
          if (error !== mirror.failure) this.#log.error("the guest's copy of a volume stays as it was", facts);
          mirror.failure = error;
          return;
        }
        await sleep(MIRROR_RETRY_MS, stop);
      }
    }
  }

  /** One after another: what was read last is what the guest has last. */
  #inTurn(mirror: Mirror, signal: AbortSignal): Promise<void> {
    const turn = this.#turns.then(() => this.#send(mirror, signal));
    this.#turns = turn.catch(() => undefined);
    return turn;
  }

  async #send(mirror: Mirror, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const files = await this.#readWatched(mirror, signal);
    const { mountPoint } = mirror;
    const digest = digestOf(files);
    if (digest === mirror.sent) return;
    // Whatever becomes of it, the guest no longer has what was sent before.
    mirror.sent = "";
    await this.#agent.agent.mirrorVolume({ mountPoint, files }, { signal });
    mirror.sent = digest;
  }

  /** A directory is watched before it is looked into, so no change after that is missed. */
  async #readWatched(mirror: Mirror, signal: AbortSignal): Promise<VolumeFile[]> {
    for (let round = 0; round < MIRROR_READS_MAX; round++) {
      const watches = new Set<WatchId>();
      try {
        const files = readVolume(mirror.hostPath, (directory) => this.#watch(directory, watches));
        mirror.watches = watches;
        return files;
      } catch (thrown) {
        if (!isNotFound(thrown)) throw thrown;
        await sleep(MIRROR_SETTLE_MS, signal);
      }
    }
    throw new HearthError("unavailable", `copy volume ${mirror.hostPath}: it is not there, or changes all the time`);
  }

  #watch(directory: string, watches: Set<WatchId>): void {
    try {
      this.#watcher ??= new FileWatcher();
      watches.add(this.#watcher.addDirectory(directory));
    } catch (thrown) {
      if (isNotFound(thrown)) throw thrown;
      if (!this.#isBlind) this.#log.warn("volume cannot be watched", { directory, error: describeError(thrown) });
      this.#isBlind = true;
    }
  }
}

function digestOf(files: readonly VolumeFile[]): string {
  const hash = createHash("sha256");
  for (const { path, mode, uid, gid, modified, data } of files) {
    hash.update(`${JSON.stringify([path, mode, uid, gid, String(modified), data.length])}\n`).update(data);
  }
  return hash.digest("hex");
}
