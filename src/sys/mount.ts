/** Mounting, unmounting, propagation, and removing directory trees without ever crossing a mount. */
import { readdirSync, readFileSync, realpathSync } from "node:fs";
import { basename, dirname } from "node:path";
import { HearthError, isErrnoException, isNotFound, SystemError, toHearthError } from "../errors.ts";
import { REMOVE_TREE_DEPTH_MAX } from "../limits.ts";
import { asFd, type Fd, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_PATH, O_RDONLY, OwnedFd, openFd } from "./fd.ts";
import { check, cString, lastErrno, lazyLibc, struct } from "./libc.ts";
import { type MountEntry, parseMountinfo } from "./mountinfo.ts";

/** Source: linux/mount.h. */
export const MS_RDONLY = 0x1;
export const MS_NOSUID = 0x2;
export const MS_NODEV = 0x4;
export const MS_NOEXEC = 0x8;
export const MS_REMOUNT = 0x20;
export const MS_NOATIME = 0x400;
export const MS_BIND = 0x1000;
export const MS_MOVE = 0x2000;
export const MS_REC = 0x4000;
export const MS_PRIVATE = 0x40000;
export const MS_SLAVE = 0x80000;
export const MS_SHARED = 0x100000;

const MNT_DETACH = 2;
const UMOUNT_NOFOLLOW = 8;
const AT_FDCWD = -100n;
const AT_RECURSIVE = 0x8000n;
const AT_SYMLINK_NOFOLLOW = 0x100n;
const AT_REMOVEDIR = 0x200;
const AT_EMPTY_PATH = 0x1000n;
const OPEN_TREE_CLONE = 1n;
const MOVE_MOUNT_F_EMPTY_PATH = 4n;
const MOVE_MOUNT_T_SYMLINKS = 0x10n;
/** struct mount_attr: attr_set, attr_clr, propagation, userns_fd, 64 bits each. */
const MOUNT_ATTR_BYTES = 32;
export const MOUNT_ATTR_RDONLY = 0x1n;
export const MOUNT_ATTR_NOSUID = 0x2n;
export const MOUNT_ATTR_NODEV = 0x4n;
export const MOUNT_ATTR_NOEXEC = 0x8n;
const MOUNT_ATTR_IDMAP = 0x100000n;
export const MOUNT_ATTR_NOSYMFOLLOW = 0x200000n;
/** struct statfs of 64 bits. Source: asm-generic/statfs.h. */
const STATFS_BYTES = 120;
const STATFS_FLAGS_AT = 80;
/** Source: linux/statfs.h. */
const STATFS_FLAGS: Readonly<Record<string, bigint>> = {
  ro: 0x1n,
  nosuid: 0x2n,
  nodev: 0x4n,
  noexec: 0x8n,
  noatime: 0x400n,
  nodiratime: 0x800n,
  nosymfollow: 0x2000n,
};
/** Source: asm/unistd_64.h; glibc has names for them only since 2.36 or not at all. */
const SYS_PIVOT_ROOT = 155n;
const SYS_OPEN_TREE = 428n;
const SYS_MOVE_MOUNT = 429n;
const SYS_OPENAT2 = 437n;
const SYS_MOUNT_SETATTR = 442n;
/** Source: linux/openat2.h: no other mount, no magic link, no symbolic link, nothing above the directory. */
const RESOLVE_INSIDE = 0x01n | 0x02n | 0x04n | 0x08n;

const libc = lazyLibc({
  mount: { args: ["ptr", "ptr", "ptr", "u64", "ptr"], returns: "i32" },
  umount2: { args: ["ptr", "i32"], returns: "i32" },
  statfs: { args: ["ptr", "ptr"], returns: "i32" },
  unlinkat: { args: ["i32", "ptr", "i32"], returns: "i32" },
  syscall: { args: ["i64", "i64", "ptr", "ptr", "i64", "i64"], returns: "i64" },
});
const rootLibc = lazyLibc({
  chdir: { args: ["ptr"], returns: "i32" },
  syscall: { args: ["i64", "ptr", "ptr"], returns: "i64" },
});
const mountLibc = lazyLibc({ syscall: { args: ["i64", "i64", "ptr", "i64", "ptr", "i64"], returns: "i64" } });

export interface MountOptions {
  /** Device, directory, tag or, for file systems without one, a name shown in mountinfo. */
  readonly source: string;
  readonly target: string;
  /** "tmpfs", "virtiofs" …; ignored for bind, move and remount. */
  readonly type?: string;
  /** MS_* combined. */
  readonly flags?: number;
  /** Options of the file system, "size=1m,mode=755". */
  readonly data?: string;
}

/** mount(2). */
export function mount(options: MountOptions): void {
  const type = options.type === undefined ? null : cString(options.type);
  const data = options.data === undefined ? null : cString(options.data);
  const flags = BigInt(options.flags ?? 0);
  check(
    libc().mount(cString(options.source), cString(options.target), type, flags, data),
    `mount ${options.source} on ${options.target}`,
    { type: options.type, flags: options.flags, data: options.data },
  );
}

/** The processes of the calling process's pid namespace, and nothing to write to; follows a symbolic link in `target`. */
export function mountProc(target: string): void {
  mount({ source: "proc", target, type: "proc", flags: MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC });
}

export interface BindOptions {
  /** With the mounts below the source. Default false. */
  readonly recursive?: boolean;
  /** Read-only, including the mounts below when recursive. Default false. */
  readonly readOnly?: boolean;
  /**
   * What is mounted below the source later appears, but nothing goes the other way. Without it, where the source is
   * shared, unmounting what came along with it here unmounts it there. Default false.
   */
  readonly slave?: boolean;
  /** The owners of its files are mapped as the ids of this user namespace are; `recursive`: of what is mounted below too. */
  readonly idMapping?: { readonly userNamespace: Fd; readonly recursive: boolean } | undefined;
}

/** Makes `source` appear at the existing `target` too; read-only and cut off from its source from its first moment. */
export function bindMount(source: string, target: string, options: BindOptions = {}): void {
  if (options.readOnly === true || options.slave === true) {
    using tree = cloneTree(source, options);
    attachTree(tree, target);
  } else mount({ source, target, flags: MS_BIND | (options.recursive === true ? MS_REC : 0) });
}

/**
 * A copy of what is mounted at a path, mounted nowhere yet; it is the caller's. It is changed before it is anywhere:
 * where the target is shared, its copies in other mounts and namespaces take the flags they are born with, and a later
 * change of ours would not reach them. It may be made in one mount namespace and attached in another.
 */
export function cloneTree(source: string, options: BindOptions = {}): OwnedFd {
  const message = `copy mount ${source}`;
  const deep = options.recursive === true ? AT_RECURSIVE : 0n;
  const { syscall } = mountLibc();
  const flags = OPEN_TREE_CLONE | BigInt(O_CLOEXEC) | deep;
  const opened = syscall(SYS_OPEN_TREE, AT_FDCWD, cString(source), flags, null, 0n);
  if (opened < 0n) throw new SystemError(lastErrno(), message);
  const tree = new OwnedFd(asFd(Number(opened)));
  try {
    const change = {
      set: options.readOnly === true ? MOUNT_ATTR_RDONLY : 0n,
      propagation: options.slave === true ? MS_SLAVE : 0,
    };
    const place = [BigInt(tree.fd), ""] as const;
    changeMount(place, AT_EMPTY_PATH | deep, change, message);
    const { idMapping } = options;
    if (idMapping !== undefined) {
      const flags = AT_EMPTY_PATH | (idMapping.recursive ? AT_RECURSIVE : 0n);
      const mapping = { set: MOUNT_ATTR_IDMAP, userNamespace: idMapping.userNamespace };
      changeMount(place, flags, mapping, `map owners of mount ${source} (its file system may not know how)`);
    }
    return tree;
  } catch (thrown) {
    tree.close();
    throw thrown;
  }
}

/**
 * Mounts a copy at `target`; with `followLink` where that leads, if it is a symbolic link. The descriptor stays the
 * caller's, the mount does not depend on it.
 */
export function attachTree(tree: OwnedFd, target: string, options: { readonly followLink?: boolean } = {}): void {
  const from = BigInt(tree.fd);
  const moved = mountLibc().syscall(
    SYS_MOVE_MOUNT,
    from,
    cString(""),
    AT_FDCWD,
    cString(target),
    MOVE_MOUNT_F_EMPTY_PATH | (options.followLink === true ? MOVE_MOUNT_T_SYMLINKS : 0n),
  );
  if (moved < 0n) throw new SystemError(lastErrno(), `mount on ${target}`);
}

/**
 * The mount at `path` becomes the root of the CALLING THREAD's mount namespace, which must share no mounts with others, and its
 * working directory; all other mounts leave the namespace. Source: pivot_root(2), "." for both directories.
 */
export function pivotRoot(path: string): void {
  check(rootLibc().chdir(cString(path)), `enter ${path}`);
  const here = cString(".");
  check(Number(rootLibc().syscall(SYS_PIVOT_ROOT, here, here)), `make ${path} the root`);
  check(libc().umount2(here, MNT_DETACH), "unmount the old root");
  check(rootLibc().chdir(cString("/")), "enter the new root");
}

/** Makes an existing mount read-only without touching its other flags or other mounts of the same file system. */
export function setReadOnly(target: string, recursive: boolean): void {
  const flags = AT_SYMLINK_NOFOLLOW | (recursive ? AT_RECURSIVE : 0n);
  changeMount([AT_FDCWD, target], flags, { set: MOUNT_ATTR_RDONLY }, `make mount ${target} read-only`);
}

/** Flags (MOUNT_ATTR_*) of a mount that there is; its others stay. `target` may be a symbolic link that leads to it. */
export function setMountAttributes(
  target: string,
  { set, clear, recursive }: { readonly set: bigint; readonly clear: bigint; readonly recursive: boolean },
): void {
  changeMount([AT_FDCWD, target], recursive ? AT_RECURSIVE : 0n, { set, clear }, `change mount ${target}`);
}

/** Members of struct mount_attr; 0 for those left out. */
interface MountChange {
  readonly set?: bigint;
  readonly clear?: bigint;
  readonly propagation?: number;
  readonly userNamespace?: Fd;
}

/** mount_setattr(2) of a path from a directory. `message` is for the error. */
function changeMount(
  [directory, path]: readonly [bigint, string],
  flags: bigint,
  { set = 0n, clear = 0n, propagation = 0, userNamespace = asFd(0) }: MountChange,
  message: string,
): void {
  const { bytes, view } = struct(MOUNT_ATTR_BYTES);
  const members = [set, clear, BigInt(propagation), BigInt(userNamespace)];
  for (const [at, value] of members.entries()) view.setBigUint64(8 * at, value, true);
  const size = BigInt(MOUNT_ATTR_BYTES);
  const changed = mountLibc().syscall(SYS_MOUNT_SETATTR, directory, cString(path), flags, bytes, size);
  if (changed < 0n) throw new SystemError(lastErrno(), message);
}

/** Mounts made below this one appear in every mount that shares with it, and the other way round. */
export function makeShared(target: string, recursive = false): void {
  setPropagation(target, MS_SHARED, recursive);
}

/** Mounts of its former peers still appear here; ours no longer appear there. */
export function makeSlave(target: string, recursive = false): void {
  setPropagation(target, MS_SLAVE, recursive);
}

/** Nothing appears either way. */
export function makePrivate(target: string, recursive = false): void {
  setPropagation(target, MS_PRIVATE, recursive);
}

function setPropagation(target: string, kind: number, recursive: boolean): void {
  mount({ source: "none", target, flags: kind | (recursive ? MS_REC : 0) });
}

export interface UnmountOptions {
  /** Takes it out of the tree now, and frees it when nobody uses it any more: never EBUSY. Default false. */
  readonly detach?: boolean;
}

/** Unmounts what is mounted on `target` last; does not follow a symbolic link. False when nothing is mounted there. */
export function unmount(target: string, options: UnmountOptions = {}): boolean {
  const flags = UMOUNT_NOFOLLOW | (options.detach === true ? MNT_DETACH : 0);
  if (libc().umount2(cString(target), flags) >= 0) return true;
  const errno = lastErrno();
  if (errno === "EINVAL" || errno === "ENOENT") return false;
  throw new SystemError(errno, `unmount ${target}`);
}

/** The mounts that this process sees now. */
export function listMounts(): MountEntry[] {
  try {
    return parseMountinfo(readFileSync("/proc/self/mountinfo", "utf8"));
  } catch (thrown) {
    throw toHearthError(thrown, "read mounts");
  }
}

/** Mounts on `dir` and below it, the one to unmount first at the front. Symbolic links in `dir` are resolved. */
export function mountsUnder(dir: string): MountEntry[] {
  const real = realPath(dir);
  const inside = real === "/" ? "/" : `${real}/`;
  return listMounts()
    .filter(({ mountPoint }) => mountPoint === real || mountPoint.startsWith(inside))
    .reverse();
}

/**
 * Where something is mounted below `dir` and not hidden by a later mount: relative paths, an outer one before those below it.
 * In the mount namespace of the calling thread.
 */
export function mountPointsBelow(dir: string): string[] {
  const real = realPath(dir);
  const inside = real === "/" ? "/" : `${real}/`;
  return parseMountinfo(readFileSync("/proc/thread-self/mountinfo", "utf8"))
    .filter(
      ({ id, mountPoint }) => mountPoint.startsWith(inside) && mountPoint !== real && mountIdAt(mountPoint) === id,
    )
    .map(({ mountPoint }) => mountPoint.slice(inside.length))
    .sort();
}

/** What is taken away on the mount that a path is on, as mount(8) names it. */
export function mountOptionsAt(path: string): string[] {
  const { bytes, view } = struct(STATFS_BYTES);
  check(libc().statfs(cString(path), bytes), `inspect mount of ${path}`);
  const flags = view.getBigUint64(STATFS_FLAGS_AT, true);
  return Object.entries(STATFS_FLAGS).flatMap(([option, flag]) => ((flags & flag) === 0n ? [] : [option]));
}

/** Of the mount that a path leads to; undefined where it leads nowhere. Source: proc(5), fdinfo. */
function mountIdAt(path: string): number | undefined {
  try {
    using found = openFd(path, O_PATH | O_NOFOLLOW);
    const info = readFileSync(`/proc/thread-self/fdinfo/${found.fd}`, "utf8");
    return Number(/^mnt_id:\s+(\d+)$/m.exec(info)?.[1]);
  } catch (thrown) {
    if (isErrnoException(thrown) || thrown instanceof SystemError) return undefined;
    throw thrown;
  }
}

/** Unmounts everything on `dir` and below it, last mounted first; returns how many. A busy mount is EBUSY unless detached. */
export function unmountTree(dir: string, options: UnmountOptions = {}): number {
  let count = 0;
  // The tree itself tells when we are done: an unmount may take away or, by propagation, bring more than one.
  for (const { mountPoint } of mountsUnder(dir)) if (unmount(mountPoint, options)) count++;
  return count;
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch (thrown) {
    if (!isNotFound(thrown)) throw toHearthError(thrown, `resolve ${path}`);
    return path;
  }
}

/**
 * Removes a directory with everything in it, as `rm -rf --one-file-system` means to: a tree with a mount in it is
 * refused untouched ("failed-precondition"), and should one appear meanwhile, it is not entered. Symbolic links are
 * removed, not followed. A missing directory is fine.
 */
export function removeTreeWithoutMounts(dir: string): void {
  const [mounted] = mountsUnder(dir);
  if (mounted !== undefined) {
    throw new HearthError("failed-precondition", `remove ${dir}: ${mounted.mountPoint} is mounted`, {
      facts: { mountPoint: mounted.mountPoint, type: mounted.type },
    });
  }
  let parent: OwnedFd;
  try {
    parent = openFd(dirname(dir), O_PATH | O_DIRECTORY);
  } catch (thrown) {
    if (isNotFound(thrown)) return;
    throw thrown;
  }
  using _parent = parent;
  removeEntry(parent.fd, cString(basename(dir)), dir, 0);
}

/** Names are looked up from the open parent, so that nobody can swap a directory for a link under us; they are bytes. */
function removeEntry(parent: Fd, name: Uint8Array, path: string, depth: number): void {
  if (libc().unlinkat(parent, name, 0) >= 0) return;
  const errno = lastErrno();
  if (errno === "ENOENT") return;
  if (errno !== "EISDIR") throw new SystemError(errno, `remove ${path}`);
  if (depth >= REMOVE_TREE_DEPTH_MAX) {
    throw new HearthError("resource-exhausted", `remove ${path}: deeper than ${REMOVE_TREE_DEPTH_MAX} directories`);
  }
  {
    using directory = openInside(parent, name, path);
    for (const entry of readdirSync(`/proc/self/fd/${directory.fd}`, { encoding: "buffer" })) {
      removeEntry(directory.fd, zeroTerminated(entry), `${path}/${entry.toString()}`, depth + 1);
    }
  }
  if (libc().unlinkat(parent, name, AT_REMOVEDIR) < 0) throw new SystemError(lastErrno(), `remove ${path}`);
}

function zeroTerminated(name: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(name.length + 1);
  bytes.set(name);
  return bytes;
}

/** Opens a directory. When something else is mounted on it: EXDEV. */
function openInside(parent: Fd, name: Uint8Array, path: string): OwnedFd {
  const { bytes: how, view } = struct(24);
  view.setBigUint64(0, BigInt(O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), true);
  view.setBigUint64(16, RESOLVE_INSIDE, true);
  const result = Number(libc().syscall(SYS_OPENAT2, BigInt(parent), name, how, 24n, 0n));
  if (result < 0) throw new SystemError(lastErrno(), `open directory ${path}`);
  return new OwnedFd(asFd(result));
}
