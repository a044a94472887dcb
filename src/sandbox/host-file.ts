/** What kind of file a path of the host leads to, as far as sharing it with a VM is concerned. */
import { existsSync, type Stats, statfsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { isErrnoException, toHearthError } from "../errors.ts";
import type { LinuxDevice } from "../oci/spec.ts";
import type { HostFileType, HostTmpfs } from "./guest-spec.ts";

/** Follows symbolic links. Fails for any error but a missing file. */
export function hostFileType(path: string): HostFileType {
  let stats: Stats;
  try {
    stats = statSync(path);
  } catch (cause) {
    if (isErrnoException(cause) && (cause.code === "ENOENT" || cause.code === "ENOTDIR")) return "missing";
    throw toHearthError(cause, `look at ${path}`);
  }
  if (stats.isDirectory()) return "directory";
  if (stats.isSocket()) return "socket";
  if (stats.isFIFO()) return "fifo";
  if (stats.isFile()) return "file";
  return stats.isBlockDevice() ? "disk" : "device";
}

/** Source: Linux Documentation/ABI/testing/sysfs-dev. */
export function hostHasDevice({ type, major, minor }: LinuxDevice): boolean {
  return existsSync(`/sys/dev/${type === "b" ? "block" : "char"}/${major}:${minor}`);
}

/** Source: linux/magic.h. */
const TMPFS_MAGIC = 0x01021994;
const HUGETLBFS_MAGIC = 0x958458f6;

/** The tmpfs or hugetlbfs that is mounted at this very path; undefined where there is anything else. */
export function hostTmpfs(path: string): HostTmpfs | undefined {
  try {
    const { type, blocks, bsize } = statfsSync(path);
    const { dev, mode, uid, gid } = statSync(path);
    if ((type !== TMPFS_MAGIC && type !== HUGETLBFS_MAGIC) || statSync(dirname(path)).dev === dev) return undefined;
    const hugepages = type === HUGETLBFS_MAGIC ? { hugepageBytes: bsize } : {};
    return { ...hugepages, sizeBytes: blocks * bsize, mode: mode & 0o7777, uid, gid };
  } catch (cause) {
    if (isErrnoException(cause) && (cause.code === "ENOENT" || cause.code === "ENOTDIR")) return undefined;
    throw toHearthError(cause, `look at ${path}`);
  }
}
