/** Files and directories of another root directory: links in its path, absolute ones too, are that root's and lead nowhere outside. */
import { fstatSync, readSync } from "node:fs";
import { SystemError } from "../errors.ts";
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
