/** Which descriptors can be carried to a process under another kernel, as streams of bytes, and which way. */
import { fstatSync, readlinkSync } from "node:fs";
import { HearthError, toHearthError } from "../errors.ts";
import { type Fd, fdKind, isOpen, O_PATH, O_RDONLY, O_WRONLY, type OwnedFd, statusFlags } from "./fd.ts";
import { isPtyMaster } from "./fd-mode.ts";
import { check, lazyLibc } from "./libc.ts";
import { isTerminal } from "./pty.ts";

/** What a process can do with a descriptor, as it travels: 1 read, 2 write, 3 both. */
export type FdUse = 1 | 2 | 3;
export const READS = 1;
export const WRITES = 2;

/** A descriptor of this process that stands for one of another, which makes that use of it. */
export interface CarriedFd {
  readonly fd: OwnedFd;
  readonly use: FdUse;
}

/** Fails with invalid-argument. */
export function parseFdUse(value: number): FdUse {
  if (value === 1 || value === 2 || value === 3) return value;
  throw new HearthError("invalid-argument", `use file descriptor: ${value} is neither 1, 2 nor 3`);
}

const O_ACCMODE = 3;
/** Source: asm-generic/socket.h. */
const SOL_SOCKET = 1;
const SO_TYPE = 3;
const SO_ACCEPTCONN = 30;
const SOCK_STREAM = 1;
/** Source: socket(2). */
const SOCKET_TYPES: Readonly<Record<number, string>> = { 2: "datagram", 3: "raw", 5: "seqpacket" };
const SOCKADDR_BYTES = 128;
/** Minors of null, zero, full, random and urandom, which are streams and nothing else. Source: Documentation/admin-guide/devices.txt. */
const MEMORY_MAJOR = 1;
const MEMORY_STREAMS: readonly number[] = [3, 5, 7, 8, 9];

const libc = lazyLibc({
  getsockopt: { args: ["i32", "i32", "i32", "ptr", "ptr"], returns: "i32" },
  getpeername: { args: ["i32", "ptr", "ptr"], returns: "i32" },
});

/** The use that can be made of the descriptor as a stream of bytes, or in words what it is instead. */
export function streamUse(fd: Fd): FdUse | string {
  if (!isOpen(fd)) return "not open";
  const flags = statusFlags(fd);
  if ((flags & O_PATH) !== 0) return "a path (O_PATH)";
  const kind = fdKind(fd);
  switch (kind) {
    case "pipe":
    case "file":
      // One description with one position, or whose writer reads its own bytes again: two streams are not that.
      return accessOf(flags) === 3 ? `a ${kind} open for reading and writing at once` : accessOf(flags);
    case "socket":
      return socketObstacle(fd) ?? 3;
    case "character":
      return isByteDevice(fd) ? accessOf(flags) : `the device ${nameOf(fd)}`;
    case "block":
      return `the block device ${nameOf(fd)}`;
    case "directory":
      return `the directory ${nameOf(fd)}`;
    case "other":
      // What this program opened for itself under a number that was free looks the same.
      return `not open, or no stream (${nameOf(fd)})`;
  }
}

function accessOf(flags: number): FdUse {
  const access = flags & O_ACCMODE;
  if (access === O_RDONLY) return READS;
  return access === O_WRONLY ? WRITES : 3;
}

function socketObstacle(fd: Fd): string | undefined {
  const type = socketOption(fd, SO_TYPE);
  if (type !== SOCK_STREAM) return `a ${SOCKET_TYPES[type] ?? "special"} socket`;
  if (socketOption(fd, SO_ACCEPTCONN) !== 0) return "a listening socket";
  const length = Int32Array.of(SOCKADDR_BYTES);
  return libc().getpeername(fd, new Uint8Array(SOCKADDR_BYTES), length) < 0 ? "a socket without a peer" : undefined;
}

function socketOption(fd: Fd, option: number): number {
  const value = new Int32Array(1);
  check(libc().getsockopt(fd, SOL_SOCKET, option, value, Int32Array.of(4)), `get option of socket ${fd}`);
  return value[0] ?? 0;
}

function isByteDevice(fd: Fd): boolean {
  if (isTerminal(fd) || isPtyMaster(fd)) return true;
  const { rdev } = fstatSync(fd);
  // Source: sysmacros.h, for the small numbers that these have.
  return rdev >> 8 === MEMORY_MAJOR && MEMORY_STREAMS.includes(rdev & 0xff);
}

function nameOf(fd: Fd): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch (thrown) {
    throw toHearthError(thrown, `inspect file descriptor ${fd}`);
  }
}
