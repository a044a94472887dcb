/** What kind of file a path of the host leads to, as far as sharing it with a VM is concerned. */
import { type Stats, statSync } from "node:fs";
import { isErrnoException, toHearthError } from "../errors.ts";
import type { HostFileType } from "./guest-spec.ts";

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
  return "device";
}
