/** File descriptors: a branded number, an owner that closes once, pipes, socket pairs and descriptor flags. */
import { closeSync, constants, fstatSync, openSync } from "node:fs";
import { HearthError, SystemError, toHearthError } from "../errors.ts";
import { check, lastErrno, lazyLibc, struct } from "./libc.ts";

declare const fdBrand: unique symbol;
/** An open file descriptor of this process. */
export type Fd = number & { readonly [fdBrand]: true };

export const O_RDONLY = constants.O_RDONLY;
export const O_WRONLY = constants.O_WRONLY;
export const O_RDWR = constants.O_RDWR;
export const O_CREAT = constants.O_CREAT;
export const O_EXCL = constants.O_EXCL;
export const O_TRUNC = constants.O_TRUNC;
export const O_APPEND = constants.O_APPEND;
export const O_NOCTTY = constants.O_NOCTTY;
export const O_NOFOLLOW = constants.O_NOFOLLOW;
export const O_DIRECTORY = constants.O_DIRECTORY;
export const O_NONBLOCK = constants.O_NONBLOCK;
/** Source: asm-generic/fcntl.h. node:fs has no names for these two. */
export const O_CLOEXEC = 0o2000000;
export const O_PATH = 0o10000000;

const F_DUPFD_CLOEXEC = 1030;
const F_SETPIPE_SZ = 1031;
const F_GETFD = 1;
const F_SETFD = 2;
const F_GETFL = 3;
const F_SETFL = 4;
const FD_CLOEXEC = 1;
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;

const libc = lazyLibc({
  pipe2: { args: ["ptr", "i32"], returns: "i32" },
  socketpair: { args: ["i32", "i32", "i32", "ptr"], returns: "i32" },
  fcntl: { args: ["i32", "i32", "i32"], returns: "i32" },
  dup3: { args: ["i32", "i32", "i32"], returns: "i32" },
  shutdown: { args: ["i32", "i32"], returns: "i32" },
});

/** The number as a descriptor; it must be a small non-negative integer. Does not ask whether it is open. */
export function asFd(value: number): Fd {
  if (!Number.isInteger(value) || value < 0 || value > 0x7fffffff) {
    throw new HearthError("invalid-argument", `use file descriptor ${value}`);
  }
  return value as Fd;
}

/** Owns one descriptor; closes it once. */
export class OwnedFd implements Disposable {
  #fd: Fd | undefined;

  constructor(fd: Fd) {
    this.#fd = fd;
  }

  /** The descriptor; an error after close or release. */
  get fd(): Fd {
    if (this.#fd === undefined) throw new HearthError("failed-precondition", "use file descriptor: already closed");
    return this.#fd;
  }

  get isOpen(): boolean {
    return this.#fd !== undefined;
  }

  /** Gives up ownership: the caller closes the descriptor from now on. */
  release(): Fd {
    const fd = this.fd;
    this.#fd = undefined;
    return fd;
  }

  /** Idempotent. */
  close(): void {
    const fd = this.#fd;
    this.#fd = undefined;
    if (fd !== undefined) closeFd(fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Closes a descriptor that is known to be open. A close that fails with EIO has closed it all the same. */
export function closeFd(fd: Fd): void {
  try {
    closeSync(fd);
  } catch (thrown) {
    const error = toHearthError(thrown, `close file descriptor ${fd}`);
    if (!(error instanceof SystemError) || error.errno === "EBADF") throw error;
  }
}

/** Opens with O_CLOEXEC. `mode` counts only with O_CREAT; default 0600. */
export function openFd(path: string, flags: number, mode = 0o600): OwnedFd {
  try {
    return new OwnedFd(asFd(openSync(path, flags | O_CLOEXEC, mode)));
  } catch (thrown) {
    throw toHearthError(thrown, `open ${path}`);
  }
}

export interface Pipe {
  readonly readEnd: OwnedFd;
  readonly writeEnd: OwnedFd;
}

export interface PipeOptions {
  /** Our end, when the other goes to a child: the two ends have open file descriptions of their own. */
  readonly nonBlockingRead?: boolean;
  readonly nonBlockingWrite?: boolean;
}

/** A pipe, both ends O_CLOEXEC and blocking unless told. */
export function pipe(options: PipeOptions = {}): Pipe {
  const fds = new Int32Array(2);
  check(libc().pipe2(fds, O_CLOEXEC), "make pipe");
  const [readEnd = -1, writeEnd = -1] = fds;
  if (options.nonBlockingRead === true) setNonBlocking(asFd(readEnd), true);
  if (options.nonBlockingWrite === true) setNonBlocking(asFd(writeEnd), true);
  return { readEnd: new OwnedFd(asFd(readEnd)), writeEnd: new OwnedFd(asFd(writeEnd)) };
}

/** Sets how many bytes a pipe holds; rounded up to a power of two pages. Beyond pipe-max-size only for root. */
export function setPipeCapacity(fd: Fd, bytes: number): void {
  check(libc().fcntl(fd, F_SETPIPE_SZ, bytes), `set capacity of pipe ${fd}`);
}

/** Two connected unix stream sockets, O_CLOEXEC, blocking unless `nonBlocking`. */
export function socketpair(options: { readonly nonBlocking?: boolean } = {}): readonly [OwnedFd, OwnedFd] {
  const fds = new Int32Array(2);
  const type = SOCK_STREAM | SOCK_CLOEXEC | (options.nonBlocking === true ? SOCK_NONBLOCK : 0);
  check(libc().socketpair(AF_UNIX, type, 0, fds), "make socket pair");
  const [left = -1, right = -1] = fds;
  return [new OwnedFd(asFd(left)), new OwnedFd(asFd(right))];
}

/** Source: sys/socket.h. */
const SHUTDOWN = { read: 0, write: 1 } as const;

/**
 * Ends one direction of a connected socket, for everybody who has it: "write": the peer reads the end of the stream,
 * "read": the peer's writes fail with EPIPE. Nothing where there is no peer any more.
 */
export function shutdownSocket(fd: Fd, half: keyof typeof SHUTDOWN): void {
  if (libc().shutdown(fd, SHUTDOWN[half]) >= 0) return;
  const errno = lastErrno();
  if (errno !== "ENOTCONN") throw new SystemError(errno, `end socket ${fd}`);
}

/** A second descriptor, O_CLOEXEC, of the same open file description. */
export function dup(fd: Fd): OwnedFd {
  return new OwnedFd(asFd(check(libc().fcntl(fd, F_DUPFD_CLOEXEC, 3), `duplicate file descriptor ${fd}`)));
}

/** Makes `to` (open or not) another name of `from`, O_CLOEXEC. They must differ. */
export function dupOnto(from: Fd, to: Fd): void {
  check(libc().dup3(from, to, O_CLOEXEC), `duplicate file descriptor ${from} onto ${to}`);
}

/** Status flags of the open file description (O_NONBLOCK, O_APPEND, access mode). */
export function statusFlags(fd: Fd): number {
  return check(libc().fcntl(fd, F_GETFL, 0), `get flags of file descriptor ${fd}`);
}

/** Sets or clears O_NONBLOCK on the open file description: everybody who shares it sees the change. */
export function setNonBlocking(fd: Fd, nonBlocking: boolean): void {
  const flags = statusFlags(fd);
  const wanted = nonBlocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
  if (wanted !== flags) check(libc().fcntl(fd, F_SETFL, wanted), `set flags of file descriptor ${fd}`);
}

/** Sets or clears close-on-exec of this descriptor. */
export function setCloseOnExec(fd: Fd, closeOnExec: boolean): void {
  const flags = check(libc().fcntl(fd, F_GETFD, 0), `get flags of file descriptor ${fd}`);
  const wanted = closeOnExec ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC;
  if (wanted !== flags) check(libc().fcntl(fd, F_SETFD, wanted), `set flags of file descriptor ${fd}`);
}

/** True when the number is an open descriptor of this process. */
export function isOpen(fd: number): boolean {
  if (libc().fcntl(fd, F_GETFD, 0) >= 0) return true;
  const errno = lastErrno();
  if (errno === "EBADF") return false;
  throw new SystemError(errno, `get flags of file descriptor ${fd}`);
}

export type FdKind = "file" | "directory" | "pipe" | "socket" | "character" | "block" | "other";

/** What the descriptor is open on; "other" is an anonymous inode such as a pidfd. */
export function fdKind(fd: Fd): FdKind {
  let stat: ReturnType<typeof fstatSync>;
  try {
    stat = fstatSync(fd);
  } catch (thrown) {
    throw toHearthError(thrown, `inspect file descriptor ${fd}`);
  }
  if (stat.isFile()) return "file";
  if (stat.isFIFO()) return "pipe";
  if (stat.isSocket()) return "socket";
  if (stat.isCharacterDevice()) return "character";
  if (stat.isDirectory()) return "directory";
  if (stat.isBlockDevice()) return "block";
  return "other";
}

const RLIMIT_NOFILE = 7;
const limitLibc = lazyLibc({ getrlimit: { args: ["i32", "ptr"], returns: "i32" } });

/** Most descriptors this process may have open (soft limit). */
export function openFilesLimit(): number {
  const { bytes, view } = struct(16);
  check(limitLibc().getrlimit(RLIMIT_NOFILE, bytes), "get limit of open files");
  return Number(view.getBigUint64(0, true));
}
