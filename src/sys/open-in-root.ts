/** Files and directories of another root directory: links in its path, absolute ones too, are that root's and lead nowhere outside. */
import { closeSync, fstatSync, mkdirSync, openSync, readlinkSync, readSync } from "node:fs";
import { join } from "node:path";
import { isErrnoException, SystemError, toHearthError } from "../errors.ts";
import { SYMBOLIC_LINKS_MAX } from "../limits.ts";
import { asFd, fdKind, O_CLOEXEC, O_DIRECTORY, O_NOCTTY, O_NONBLOCK, O_PATH, O_RDONLY, OwnedFd, openFd } from "./fd.ts";
import { cString, lastErrno, lazyLibc, struct } from "./libc.ts";

/** Source: asm/unistd_64.h. */
const SYS_OPENAT2 = 437n;
/** Source: linux/openat2.h. */
const RESOLVE_NO_MAGICLINKS = 0x02n;
const RESOLVE_IN_ROOT = 0x10n;
const OPEN_HOW_BYTES = 24;

const libc = lazyLibc({ syscall: { args: ["i64", "i64", "ptr", "ptr", "u64"], returns: "i64" } });

/** Undefined when nothing that `flags` ask for is there. */
function openInRoot(root: string, path: string, flags: number): OwnedFd | undefined {
  using directory = openFd(root, O_PATH | O_DIRECTORY);
  const { bytes: how, view } = struct(OPEN_HOW_BYTES);
  view.setBigUint64(0, BigInt(flags | O_CLOEXEC), true);
  view.setBigUint64(16, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, true);
  const result = Number(libc().syscall(SYS_OPENAT2, BigInt(directory.fd), cString(path), how, BigInt(OPEN_HOW_BYTES)));
  if (result < 0) {
    const errno = lastErrno();
    if (["ENOENT", "ENOTDIR", "ELOOP", "ENXIO"].includes(errno)) return undefined;
    throw new SystemError(errno, `open ${path} of ${root}`);
  }
  return new OwnedFd(asFd(result));
}

/** As a path alone: it can be named, not read. Undefined when nothing is there. `path` starts at `root`. */
export function openPathInRoot(root: string, path: string): OwnedFd | undefined {
  return openInRoot(root, path, O_PATH);
}

/** Permission bits of a directory, the sticky one and its kin included; undefined when there is none. `path` starts at `root`. */
export function directoryModeInRoot(root: string, path: string): number | undefined {
  using directory = openInRoot(root, path, O_PATH | O_DIRECTORY);
  return directory && fstatSync(directory.fd).mode & 0o7777;
}

/** At most `bytesMax` of the file's text; undefined when there is no regular file. `path` starts at `root`. */
export function readInRoot(root: string, path: string, bytesMax: number): string | undefined {
  using file = openInRoot(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (file === undefined || fdKind(file.fd) !== "file") return undefined;
  const buffer = new Uint8Array(Math.min(fstatSync(file.fd).size, bytesMax));
  let length = 0;
  for (let got = -1; got !== 0 && length < buffer.length; length += got) {
    got = readSync(file.fd, buffer, length, buffer.length - length, null);
  }
  return new TextDecoder().decode(buffer.subarray(0, length));
}

/**
 * Where a path leads in `root`, links and ".." followed; what is missing is taken as it is written, and so is what comes after a place
 * that `isHidden` tells of. Absolute, without links. Fails with ELOOP.
 */
export function resolveInRoot(root: string, path: string, isHidden: (place: string) => boolean): string {
  const names: string[] = [];
  const left = path.split("/").reverse();
  for (let links = 0, name = left.pop(); name !== undefined; name = left.pop()) {
    if (name === "" || name === ".") continue;
    const target =
      name === ".." || isHidden(`/${names.join("/")}`) ? undefined : linkTarget(join(root, ...names, name));
    if (name === "..") names.pop();
    else if (target === undefined) names.push(name);
    else {
      if (++links > SYMBOLIC_LINKS_MAX) throw new SystemError("ELOOP", `resolve ${path} in ${root}`);
      if (target.startsWith("/")) names.length = 0;
      left.push(...target.split("/").reverse());
    }
  }
  return `/${names.join("/")}`;
}

/** Undefined for what is no symbolic link. */
function linkTarget(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch (thrown) {
    if (isErrnoException(thrown) && ["EINVAL", "ENOENT", "ENOTDIR"].includes(thrown.code ?? "")) return undefined;
    throw toHearthError(thrown, `read link ${path}`);
  }
}

/**
 * Makes what is missing of a path that `resolveInRoot` has found: directories (0755), and an empty file (0644) or directory at its
 * end, or neither when that is not known. A link that has come into its way leads nowhere else than to what is in `root`.
 */
export function makeInRoot(root: string, path: string, kind: "directory" | "file" | "unknown"): void {
  using opened = new DisposableStack();
  // Not by chmod(2) afterwards: a link could have come into its place by then.
  const umask = process.umask(0o022);
  opened.defer(() => process.umask(umask));
  let directory = opened.use(openFd(root, O_PATH | O_DIRECTORY));
  const names = path.split("/").filter((name) => name !== "");
  for (const [index, name] of names.entries()) {
    const entry = `/proc/thread-self/fd/${directory.fd}/${name}`;
    const isLast = index === names.length - 1;
    if (isLast && kind === "unknown") return;
    const isNew = isLast && kind === "file" ? makeFile(entry, path) : makeDirectory(entry, path);
    if (isLast && !isNew) return;
    if (isLast) continue;
    const next = openInRoot(root, names.slice(0, index + 1).join("/"), O_PATH | O_DIRECTORY);
    if (next === undefined) throw new SystemError("ENOTDIR", `make ${path} in ${root}`);
    directory = opened.use(next);
  }
}

function makeDirectory(entry: string, path: string): boolean {
  return unlessThere(path, () => mkdirSync(entry, 0o755));
}

function makeFile(entry: string, path: string): boolean {
  return unlessThere(path, () => closeSync(openSync(entry, "wx", 0o644)));
}

/** False when something is there already. */
function unlessThere(path: string, make: () => void): boolean {
  try {
    make();
    return true;
  } catch (thrown) {
    if (isErrnoException(thrown) && thrown.code === "EEXIST") return false;
    throw toHearthError(thrown, `make ${path}`);
  }
}
