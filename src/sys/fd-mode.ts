/** How a descriptor can be read or written without blocking the event loop, whatever it is open on. */
import { dupOnto, type Fd, fdKind, O_NOCTTY, O_NONBLOCK, openFd, setNonBlocking, statusFlags } from "./fd.ts";
import { lazyLibc, struct } from "./libc.ts";

/**
 * "nonblocking": the open file description has O_NONBLOCK, and it is ours alone.
 * "socket": MSG_DONTWAIT at each call, so that whoever shares the socket sees no change.
 * "polled": shared and blocking; each call follows a poll(2) that says it will not block, and writes at most PIPE_BUF.
 * "file": a regular file, block device or the like, which never makes a caller wait.
 */
export type FdMode = "nonblocking" | "socket" | "polled" | "file";

const libc = lazyLibc({
  poll: { args: ["ptr", "u64", "i32"], returns: "i32" },
  ioctl: { args: ["i32", "u64", "ptr"], returns: "i32" },
});

const POLLIN = 0x001;
const POLLHUP = 0x010;
const POLLOUT = 0x004;
/** Source: asm-generic/ioctls.h. Succeeds on the master side of a pseudo-terminal only. */
const TIOCGPTN = 0x80045430n;

/**
 * Makes the descriptor usable without blocking and says how. Standard input and output are usually shared with the
 * process that started us and with our children, and O_NONBLOCK belongs to what is shared: a shell whose terminal
 * became non-blocking fails. Pipes, fifos and terminals are therefore opened anew through /proc, which gives a
 * description of our own under the same number.
 */
export function prepareFd(fd: Fd): FdMode {
  const kind = fdKind(fd);
  if (kind === "socket") return "socket";
  if (kind === "file" || kind === "directory" || kind === "block") return "file";
  const flags = statusFlags(fd);
  if ((flags & O_NONBLOCK) !== 0) return "nonblocking";
  if (kind === "other" || isPtyMaster(fd)) {
    // Opened anew, a master would be another terminal. A master has one owner, so nobody else sees the change.
    setNonBlocking(fd, true);
    return "nonblocking";
  }
  return reopenNonBlocking(fd, flags) ? "nonblocking" : "polled";
}

function reopenNonBlocking(fd: Fd, flags: number): boolean {
  const ACCESS_AND_APPEND = 0o2003;
  try {
    using fresh = openFd(`/proc/self/fd/${fd}`, (flags & ACCESS_AND_APPEND) | O_NONBLOCK | O_NOCTTY);
    dupOnto(fresh.fd, fd);
    return true;
  } catch {
    // Not permitted, a device that opens once (EBUSY), or a fifo whose reader has gone (ENXIO): the old one still works.
    return false;
  }
}

/** True for the master side of a pseudo-terminal. */
export function isPtyMaster(fd: Fd): boolean {
  return libc().ioctl(fd, TIOCGPTN, new Uint8Array(4)) >= 0;
}

/** Asks poll(2), without waiting, whether a call would get on (error and hang-up included). */
export function isReady(fd: Fd, interest: "read" | "write"): boolean {
  return pollNow(fd, interest === "read" ? POLLIN : POLLOUT) !== 0;
}

/** True for a socket whose peer has been closed, or both of whose directions have ended. */
export function isHungUp(fd: Fd): boolean {
  return (pollNow(fd, 0) & POLLHUP) !== 0;
}

function pollNow(fd: Fd, events: number): number {
  const { bytes, view } = struct(8);
  view.setInt32(0, fd, true);
  view.setInt16(4, events, true);
  return libc().poll(bytes, 1n, 0) > 0 ? view.getInt16(6, true) : 0;
}
