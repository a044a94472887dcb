/** Where containers are recorded: one directory each below the root, guarded by its own lock file. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, unlinkSync } from "node:fs";
import { basename, join } from "node:path";
import { DeadlineError, HearthError, isErrnoException, isNotFound, SystemError, toHearthError } from "../errors.ts";
import { CONTAINER_RESERVE_ATTEMPTS_MAX } from "../limits.ts";
import { type ContainerPaths, containerPaths } from "../paths.ts";
import { writeJsonAtomic } from "../sys/atomic-file.ts";
import type { FileLock } from "../sys/lock.ts";
import { isAlive } from "../sys/process-stat.ts";
import { checkContainerId } from "./container-id.ts";
import { type ContainerRecord, parseContainerRecord } from "./container-record.ts";

export function noSuchContainer(id: string): HearthError {
  return new HearthError("not-found", `container ${id} does not exist`, { facts: { id } });
}

/** The record as it is on disk; takes no lock. Fails with not-found, or invalid-argument for an id that is none. */
export function readContainer(root: string, id: string): ContainerRecord {
  checkContainerId(id);
  const record = readRecord(containerPaths(root, id));
  if (record === undefined) throw noSuchContainer(id);
  return record;
}

/** Every container below `root`, by id. One that is deleted while we look is left out. */
export function listContainers(root: string): ContainerRecord[] {
  let names: string[];
  try {
    names = readdirSync(root);
  } catch (thrown) {
    if (isNotFound(thrown)) return [];
    throw toHearthError(thrown, `read container root ${root}`);
  }
  return names.sort().flatMap((name) => readRecord(containerPaths(root, name)) ?? []);
}

/** True from the moment its id is reserved. */
export function hasContainer(root: string, id: string): boolean {
  checkContainerId(id);
  return existsSync(containerPaths(root, id).dir);
}

/** The one whose shim, alive, has the pid. */
export function containerOfShim(root: string, pid: number): ContainerRecord | undefined {
  return listContainers(root).find(({ shim }) => shim.pid === pid && isAlive(shim));
}

/** The VM of containers that joined an earlier one of that id still runs in its cgroup. */
export function lendsCgroup(root: string, id: string): boolean {
  return listContainers(root).some(({ joined }) => joined?.id === id);
}

function readRecord(paths: ContainerPaths): ContainerRecord | undefined {
  let text: string;
  try {
    text = readFileSync(paths.state, "utf8");
  } catch (thrown) {
    if (isErrnoException(thrown) && (thrown.code === "ENOENT" || thrown.code === "ENOTDIR")) return undefined;
    throw toHearthError(thrown, `read container record ${paths.state}`);
  }
  return parseContainerRecord(text, paths.state);
}

/**
 * A container whose lock we hold. Disposing of it frees the lock; one that was reserved and never kept is removed then.
 */
export class LockedContainer implements AsyncDisposable {
  readonly paths: ContainerPaths;
  readonly #lock: FileLock;
  #kept: boolean;
  #record: ContainerRecord | undefined;

  constructor(paths: ContainerPaths, lock: FileLock, record: ContainerRecord | undefined) {
    this.paths = paths;
    this.#lock = lock;
    this.#record = record;
    this.#kept = record !== undefined;
  }

  /** The record as it was read under the lock, or saved since. */
  get record(): ContainerRecord {
    if (this.#record === undefined)
      throw new HearthError("internal", `read record in ${this.paths.dir}: not yet saved`);
    return this.#record;
  }

  save(record: ContainerRecord): void {
    writeJsonAtomic(this.paths.state, record);
    this.#record = record;
  }

  /** Notes what is about to be made outside of this directory; see removeLeftover. */
  noteCgroups(dirs: readonly string[]): void {
    writeJsonAtomic(this.paths.cgroups, dirs);
  }

  /** The container exists from now on: it stays when this is disposed of. */
  keep(): void {
    this.#kept = true;
  }

  /** Removes record, lock file and directory, and frees the lock. Nothing else may be in the directory. */
  remove(): void {
    this.#kept = true;
    for (const file of [...this.#unfinishedWrites(), this.paths.state, this.paths.cgroups, this.paths.lock]) {
      try {
        unlinkSync(file);
      } catch (thrown) {
        if (!isNotFound(thrown)) throw toHearthError(thrown, `remove ${file}`);
      }
    }
    try {
      rmdirSync(this.paths.dir);
    } catch (thrown) {
      // Somebody who waited for this id has made a lock file of his own in the moment between: it is his now.
      const gone = isErrnoException(thrown) && (thrown.code === "ENOENT" || thrown.code === "ENOTEMPTY");
      if (!gone) throw toHearthError(thrown, `remove ${this.paths.dir}`);
    } finally {
      this.#lock.release();
    }
  }

  /** Temporary files of writers that were killed: we hold the lock, so nobody is writing. */
  #unfinishedWrites(): string[] {
    const prefixes = [this.paths.state, this.paths.cgroups].map((path) => `.${basename(path)}.`);
    const names = readdirSync(this.paths.dir).filter((name) => prefixes.some((prefix) => name.startsWith(prefix)));
    return names.map((name) => join(this.paths.dir, name));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#lock.held) return;
    if (this.#kept) this.#lock.release();
    else this.remove();
  }
}

/**
 * Takes a new id: its directory with the lock in it, nothing else. A directory that a killed create left behind
 * (no record, lock free) is taken over. Fails with already-exists without touching what exists.
 */
export async function reserveContainer(root: string, id: string): Promise<LockedContainer> {
  checkContainerId(id);
  const { tryLock } = await import("../sys/lock.ts");
  const paths = containerPaths(root, id);
  const exists = (): HearthError =>
    new HearthError("already-exists", `container with given ID already exists: ${id}`, { facts: { id } });
  makePrivateDirectory(root);
  for (let attempt = 0; attempt < CONTAINER_RESERVE_ATTEMPTS_MAX; attempt++) {
    makeDirectory(paths.dir);
    let lock: FileLock | undefined;
    try {
      lock = tryLock(paths.lock);
    } catch (thrown) {
      // Its last owner removed the directory between our two calls.
      if (thrown instanceof SystemError && thrown.errno === "ENOENT") continue;
      throw thrown;
    }
    if (lock === undefined) throw exists();
    let record: ContainerRecord | undefined;
    try {
      record = readRecord(paths);
    } catch (thrown) {
      lock.release();
      throw thrown;
    }
    if (record === undefined) return new LockedContainer(paths, lock, undefined);
    lock.release();
    throw exists();
  }
  throw new HearthError("unavailable", `reserve container ${id}: its directory keeps being removed`);
}

/**
 * Waits for the lock of an existing container and reads its record under it. One that is still being created, by a
 * runtime that has not yet recorded it, is waited for.
 */
export async function lockContainer(root: string, id: string, timeoutMs: number): Promise<LockedContainer> {
  checkContainerId(id);
  const { lock } = await import("../sys/lock.ts");
  const paths = containerPaths(root, id);
  const isRecorded = readRecord(paths) !== undefined;
  if (!isRecorded && !existsSync(paths.lock)) throw noSuchContainer(id);
  let held: FileLock;
  try {
    held = await lock(paths.lock, { timeoutMs });
  } catch (thrown) {
    if (thrown instanceof SystemError && thrown.errno === "ENOENT") throw noSuchContainer(id);
    if (thrown instanceof DeadlineError)
      throw new DeadlineError(`another command to be done with container ${id}`, timeoutMs);
    throw thrown;
  }
  const record = readRecord(paths);
  if (record !== undefined) return new LockedContainer(paths, held, record);
  // It was deleted while we waited: what we have just made in its place goes again. A killed create's leftover stays.
  if (isRecorded) new LockedContainer(paths, held, undefined).remove();
  else held.release();
  throw noSuchContainer(id);
}

/**
 * What a killed create left of `id`, if that is all there is: removed. Returns the cgroup directories it had noted, which
 * are the caller's to remove; undefined when nothing was there.
 */
export async function removeLeftover(root: string, id: string): Promise<string[] | undefined> {
  checkContainerId(id);
  const paths = containerPaths(root, id);
  const { tryLock } = await import("../sys/lock.ts");
  try {
    if (!readdirSync(root).includes(id)) return undefined;
    const lock = tryLock(paths.lock);
    if (lock === undefined) return undefined;
    if (readRecord(paths) !== undefined) {
      lock.release();
      return undefined;
    }
    const cgroupDirs = readCgroupNote(paths);
    new LockedContainer(paths, lock, undefined).remove();
    return cgroupDirs;
  } catch (thrown) {
    if (isNotFound(thrown)) return undefined;
    throw thrown;
  }
}

function readCgroupNote(paths: ContainerPaths): string[] {
  try {
    const noted: unknown = JSON.parse(readFileSync(paths.cgroups, "utf8"));
    return Array.isArray(noted) ? noted.filter((dir) => typeof dir === "string") : [];
  } catch {
    return [];
  }
}

/** Missing directories are made 0700 under whatever umask; existing ones are left as they are. */
function makePrivateDirectory(path: string): void {
  const umask = process.umask(0o077);
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (thrown) {
    throw toHearthError(thrown, `make directory ${path}`);
  } finally {
    process.umask(umask);
  }
}

function makeDirectory(path: string): void {
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (thrown) {
    if (isErrnoException(thrown) && thrown.code === "EEXIST") return;
    throw toHearthError(thrown, `make directory ${path}`);
  }
}
