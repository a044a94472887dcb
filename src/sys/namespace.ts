/** Linux namespaces of the calling thread: joining, leaving, and running a synchronous step inside another one. */
import { readlinkSync, statSync } from "node:fs";
import { SystemError, toHearthError } from "../errors.ts";
import { SETNS_ATTEMPTS_MAX } from "../limits.ts";
import { type Fd, O_DIRECTORY, O_PATH, O_RDONLY, openFd } from "./fd.ts";
import { check, cString, lastErrno, lazyLibc } from "./libc.ts";

/** Source: linux/sched.h. */
export const CLONE_NEWTIME = 0x00000080;
export const CLONE_NEWNS = 0x00020000;
export const CLONE_NEWCGROUP = 0x02000000;
export const CLONE_NEWUTS = 0x04000000;
export const CLONE_NEWIPC = 0x08000000;
export const CLONE_NEWUSER = 0x10000000;
export const CLONE_NEWPID = 0x20000000;
export const CLONE_NEWNET = 0x40000000;

const libc = lazyLibc({
  setns: { args: ["i32", "i32"], returns: "i32" },
  unshare: { args: ["i32"], returns: "i32" },
  fchdir: { args: ["i32"], returns: "i32" },
  chroot: { args: ["ptr"], returns: "i32" },
});

/** Moves the CALLING THREAD only into the namespace; the runtime's other threads stay. `type` is a CLONE_NEW* or 0 for any. */
export function setns(fd: Fd, type: number): void {
  check(libc().setns(fd, type), "join namespace");
}

/** Gives the CALLING THREAD new namespaces of the kinds in `flags` (CLONE_NEW*). */
export function unshare(flags: number): void {
  check(libc().unshare(flags), "make namespace");
}

/** Number of a namespace file such as /proc/1/ns/net or /run/netns/x; equal numbers are the same namespace. */
export function namespaceInode(path: string): bigint {
  try {
    return statSync(path, { bigint: true }).ino;
  } catch (thrown) {
    throw toHearthError(thrown, `inspect namespace ${path}`);
  }
}

/** True when the calling thread is in the network namespace that `path` names. */
export function isOwnNetns(path: string): boolean {
  return namespaceInode(path) === namespaceInode("/proc/thread-self/ns/net");
}

/** "net:[4026531840]" for /proc/…/ns/net. */
export function namespaceName(path: string): string {
  try {
    return readlinkSync(path);
  } catch (thrown) {
    throw toHearthError(thrown, `read namespace ${path}`);
  }
}

/**
 * Runs `step` with the calling thread in the network namespace of `path`, and comes back. The step must be
 * synchronous; a child it starts, a socket or a tap it opens is born in that namespace. There is no way on when the
 * thread cannot come back: everything after would happen in the wrong network, so the process aborts.
 */
export function inNetns<T>(path: string, step: () => T): T {
  using own = openFd("/proc/thread-self/ns/net", O_RDONLY);
  using target = openFd(path, O_RDONLY);
  if (libc().setns(target.fd, CLONE_NEWNET) < 0) throw new SystemError(lastErrno(), `join network namespace ${path}`);
  try {
    return step();
  } finally {
    if (libc().setns(own.fd, CLONE_NEWNET) < 0) process.abort();
  }
}

/**
 * As inNetns, in a pid namespace of which the first child that is started there is process 1. The kernel refuses this thread
 * threads of its own meanwhile, without which the runtime that needs one aborts: the step does nothing but to start the child.
 */
export function inNewPidNamespace<T>(step: () => T): T {
  const { setns, unshare } = libc();
  using own = openFd("/proc/thread-self/ns/pid", O_RDONLY);
  check(unshare(CLONE_NEWPID), "make pid namespace");
  try {
    return step();
  } finally {
    if (setns(own.fd, CLONE_NEWPID) < 0) process.abort();
  }
}

/** Source: linux/sched.h. Root and working directory, which the threads of a process share until one of them asks not to. */
const CLONE_FS = 0x00000200;

/** True when the calling thread is in the mount namespace that `path` names. */
export function isOwnMountNamespace(path: string): boolean {
  return namespaceInode(path) === namespaceInode("/proc/thread-self/ns/mnt");
}

/**
 * Runs a synchronous step with the calling thread in the mount namespace of `path`: paths mean there what they mean to
 * a process of that namespace. Afterwards the thread's working directory is the root directory. It aborts as inNetns.
 */
export function inMountNamespace<T>(path: string, step: () => T): T {
  using own = openFd("/proc/thread-self/ns/mnt", O_RDONLY);
  using target = openFd(path, O_RDONLY);
  if (!joinMounts(target.fd)) throw new SystemError(lastErrno(), `join mount namespace ${path}`);
  try {
    return step();
  } finally {
    if (!joinMounts(own.fd)) process.abort();
  }
}

/**
 * setns(2) for mounts, which fails while another thread shares our root and working directory, as each does that is started
 * by ours: those that the runtime starts for itself, to collect garbage or to compile, come at any time. False when it fails.
 */
function joinMounts(namespace: Fd): boolean {
  for (let attempt = 0; attempt < SETNS_ATTEMPTS_MAX; attempt++) {
    if (libc().unshare(CLONE_FS) < 0) return false;
    if (libc().setns(namespace, CLONE_NEWNS) >= 0) return true;
    if (lastErrno() !== "EINVAL") return false;
  }
  return false;
}

/**
 * As inMountNamespace, in a copy of the thread's own namespace, which goes with the step unless somebody keeps it. What is
 * mounted in it nobody else sees, once its mounts are no longer shared. Root and working directory are afterwards what they were.
 */
export function inPrivateMounts<T>(step: () => T): T {
  using own = openFd("/proc/thread-self/ns/mnt", O_RDONLY);
  using root = openFd("/", O_PATH | O_DIRECTORY);
  using directory = openFd(".", O_PATH | O_DIRECTORY);
  unshare(CLONE_FS | CLONE_NEWNS);
  try {
    return step();
  } finally {
    const { fchdir, chroot } = libc();
    const isBack = joinMounts(own.fd) && fchdir(root.fd) >= 0 && chroot(cString(".")) >= 0;
    if (!isBack || fchdir(directory.fd) < 0) process.abort();
  }
}

/** Moves the CALLING THREAD for good into the mount namespace of `path`: its root and working directory are those of that. */
export function enterMountNamespace(path: string): void {
  using target = openFd(path, O_RDONLY);
  if (!joinMounts(target.fd)) throw new SystemError(lastErrno(), `join mount namespace ${path}`);
}

/**
 * As inNetns, in a network namespace made for the step: it holds an unused loopback interface, and lives as long as
 * somebody (the child started there) is in it.
 */
export function inNewNetns<T>(step: () => T): T {
  using own = openFd("/proc/thread-self/ns/net", O_RDONLY);
  unshare(CLONE_NEWNET);
  try {
    return step();
  } finally {
    if (libc().setns(own.fd, CLONE_NEWNET) < 0) process.abort();
  }
}
