/** Advisory file locks by flock(2): held by an open file, so they end with their process whatever kills it. */
import { fstatSync, statSync } from "node:fs";
import { DeadlineError, HearthError, isNotFound, SystemError, toHearthError } from "../errors.ts";
import { LOCK_RETRY_MS_MAX } from "../limits.ts";
import { sleep } from "../util/wait.ts";
import { type Fd, O_CREAT, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, O_RDWR, type OwnedFd, openFd } from "./fd.ts";
import { lastErrno, lazyLibc } from "./libc.ts";

const LOCK_EX = 2;
const LOCK_NB = 4;

const libc = lazyLibc({ flock: { args: ["i32", "i32"], returns: "i32" } });

/** A held lock. Disposing of it closes the file and so frees the lock; the file itself stays. */
export class FileLock implements AsyncDisposable, Disposable {
  readonly path: string;
  readonly #fd: OwnedFd;

  constructor(path: string, fd: OwnedFd) {
    this.path = path;
    this.#fd = fd;
  }

  /** For handing the lock to a child: whoever keeps this open file description keeps the lock. */
  get fd(): Fd {
    return this.#fd.fd;
  }

  get held(): boolean {
    return this.#fd.isOpen;
  }

  /** Idempotent. */
  release(): void {
    this.#fd.close();
  }

  [Symbol.dispose](): void {
    this.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.release();
  }
}

/**
 * The exclusive lock of `path`, which is created (0600) when it is missing, or undefined when somebody holds it.
 * A file that was unlinked or replaced while we took its lock guards nothing, so it is tried again.
 * A process that starts a child and then lets go of a lock may seem to hold it for some microseconds more, until the
 * child's exec has closed its copy.
 */
export function tryLock(path: string): FileLock | undefined {
  for (let attempt = 0; attempt < REPLACED_ATTEMPTS_MAX; attempt++) {
    const held = flockOrClose(path, openFd(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600));
    if (held === undefined || isSameFile(path, held.fd)) return held;
    held.release();
  }
  throw new HearthError("unavailable", `lock ${path}: the file keeps being replaced`);
}

/** The lock of the open file, which it then owns, or undefined, with the file closed, when somebody holds it. */
function flockOrClose(path: string, fd: OwnedFd): FileLock | undefined {
  while (libc().flock(fd.fd, LOCK_EX | LOCK_NB) < 0) {
    const errno = lastErrno();
    if (errno === "EINTR") continue;
    fd.close();
    if (errno === "EAGAIN") return undefined;
    throw new SystemError(errno, `lock ${path}`);
  }
  return new FileLock(path, fd);
}

/** Times a lock file may vanish between open and lock before we give up: each needs a deleter in a microsecond window. */
const REPLACED_ATTEMPTS_MAX = 100;

function isSameFile(path: string, fd: Fd): boolean {
  const held = fstatSync(fd, { bigint: true });
  try {
    const named = statSync(path, { bigint: true });
    return named.ino === held.ino && named.dev === held.dev;
  } catch (thrown) {
    if (isNotFound(thrown)) return false;
    throw toHearthError(thrown, `inspect ${path}`);
  }
}

export interface LockOptions {
  readonly signal?: AbortSignal;
  /** Milliseconds until a DeadlineError. Default: wait until the signal aborts. */
  readonly timeoutMs?: number;
}

/**
 * Waits for the exclusive lock of `path`. flock(2) can only wait by blocking a thread, so this asks again with a
 * growing pause (1 ms to LOCK_RETRY_MS_MAX): locks guard work of milliseconds, except those held for life.
 */
export function lock(path: string, options: LockOptions = {}): Promise<FileLock> {
  return retryLock(path, () => tryLock(path), options);
}

/** Waits for the lock of an existing directory itself: for turns in a directory that has no lock file. */
export function lockDirectory(dir: string, options: LockOptions = {}): Promise<FileLock> {
  return retryLock(dir, () => flockOrClose(dir, openFd(dir, O_RDONLY | O_DIRECTORY)), options);
}

async function retryLock(path: string, attempt: () => FileLock | undefined, options: LockOptions): Promise<FileLock> {
  const started = performance.now();
  const timeoutMs = options.timeoutMs ?? Number.POSITIVE_INFINITY;
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, LOCK_RETRY_MS_MAX)) {
    options.signal?.throwIfAborted();
    const held = attempt();
    if (held !== undefined) return held;
    const leftMs = timeoutMs - (performance.now() - started);
    if (leftMs <= 0) throw new DeadlineError(`lock ${path}`, timeoutMs);
    await sleep(Math.min(pauseMs, leftMs), options.signal);
  }
}
