/**
 * Follows what the settings of a running pool come from: the configuration's files, and the files on disk that its VMs
 * are made from. A change of either has both read anew, and so has a hang-up.
 */
import { realpathSync } from "node:fs";
import { dirname } from "node:path";
import { describeError, type HearthError, toHearthError } from "../errors.ts";
import type { PoolSettings } from "../factory/vm-pool.ts";
import { SETTINGS_SETTLE_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import { FileWatcher, type WatchId } from "../sys/inotify.ts";
import type { SettingsListener } from "./server.ts";

/** What is there now. */
export interface FoundSettings {
  readonly settings: PoolSettings;
  /** The files it comes from: a change in their directories has it read anew. */
  readonly files: readonly string[];
  /** Tells this program's file from one that takes its place; undefined when that does not matter. */
  readonly program: string | undefined;
}

export interface FollowOptions {
  /** What the server was started with. */
  readonly initial: FoundSettings;
  readonly read: () => Promise<FoundSettings>;
  /** Fails when the program that has taken our place cannot take over, or the signal aborts. */
  readonly tryProgram: (signal: AbortSignal) => Promise<void>;
  /** Calls the function at each hang-up until it is disposed of. */
  readonly onHangUp: (hangUp: () => void) => Disposable;
  readonly log: Log;
}

export function followSettings(options: FollowOptions, listener: SettingsListener): AsyncDisposable {
  const follower = new Follower(options, listener);
  follower.start();
  return follower;
}

class Follower implements AsyncDisposable {
  readonly #options: FollowOptions;
  readonly #listener: SettingsListener;
  readonly #watcher = new FileWatcher();
  readonly #stop = new AbortController();
  #watched: ReadonlySet<WatchId> = new Set();
  #current: FoundSettings;
  #isRefused = false;
  #settling: ReturnType<typeof setTimeout> | undefined;
  #reading: Promise<void> = Promise.resolve();
  #hangUps: Disposable | undefined;

  constructor(options: FollowOptions, listener: SettingsListener) {
    this.#options = options;
    this.#listener = listener;
    this.#current = options.initial;
  }

  start(): void {
    this.#watch(this.#current.files);
    void this.#watchForever();
    this.#hangUps = this.#options.onHangUp(() => this.#readSoon(0));
    // What changed between the reading of the initial settings and the first watch.
    this.#readSoon(0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    clearTimeout(this.#settling);
    this.#hangUps?.[Symbol.dispose]();
    await this.#reading;
    this.#watcher[Symbol.dispose]();
  }

  async #watchForever(): Promise<void> {
    try {
      for (;;) {
        await this.#watcher.next(this.#stop.signal);
        this.#readSoon(SETTINGS_SETTLE_MS);
      }
    } catch (thrown) {
      if (this.#stop.signal.aborted) return;
      this.#options.log.error("settings are followed no longer, hang-ups still are", { error: describeError(thrown) });
    }
  }

  /** One change is often several in a row: a file is removed, made, written, given its mode. */
  #readSoon(delayMs: number): void {
    if (this.#settling !== undefined || this.#stop.signal.aborted) return;
    this.#settling = setTimeout(() => {
      this.#settling = undefined;
      this.#reading = this.#reading.then(() => this.#read());
    }, delayMs);
  }

  async #read(): Promise<void> {
    if (this.#stop.signal.aborted) return;
    try {
      const found = await this.#options.read();
      this.#watch(found.files);
      await this.#take(found);
    } catch (thrown) {
      if (this.#stop.signal.aborted) return;
      this.#refuse(toHearthError(thrown, "read settings of the pool"));
    }
  }

  async #take(found: FoundSettings): Promise<void> {
    const { program } = this.#options.initial;
    if (found.program !== program) {
      await this.#options.tryProgram(this.#stop.signal);
      this.#listener.replaced();
      return;
    }
    const isSame = JSON.stringify(found.settings) === JSON.stringify(this.#current.settings);
    this.#current = found;
    if (isSame && !this.#isRefused) return;
    this.#isRefused = false;
    this.#listener.changed(found.settings);
  }

  #refuse(error: HearthError): void {
    this.#isRefused = true;
    this.#listener.refused(error);
  }

  /** The directories of the files, and of what they are links to. One that is not there cannot be watched. */
  #watch(files: readonly string[]): void {
    const wanted = new Set(files.flatMap((file) => [dirname(file), dirname(realPath(file))]));
    const watched = new Set<WatchId>();
    for (const dir of wanted) {
      try {
        // Again each time: it may be another directory of the same name. For the same one the number is the same.
        watched.add(this.#watcher.addDirectory(dir));
      } catch (thrown) {
        this.#options.log.debug("directory not watched", { error: describeError(thrown) });
      }
    }
    for (const id of this.#watched) if (!watched.has(id)) this.#watcher.remove(id);
    this.#watched = watched;
  }
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}
