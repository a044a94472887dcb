/** Parsing /proc/PID/mountinfo. */
import { HearthError } from "../errors.ts";

export interface MountEntry {
  readonly id: number;
  readonly parentId: number;
  /** "major:minor" of the file system. */
  readonly device: string;
  /** The directory of the file system that is mounted; other than "/" for a bind mount of a part. */
  readonly root: string;
  readonly mountPoint: string;
  readonly options: readonly string[];
  /** "shared:2", "master:1", "propagate_from:2", "unbindable"; empty for a private mount. */
  readonly propagation: readonly string[];
  readonly type: string;
  readonly source: string;
  readonly superOptions: readonly string[];
}

/** The mounts in the order of the file: a later one on the same place covers an earlier one. Source: proc(5). */
export function parseMountinfo(text: string): MountEntry[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map(parseLine);
}

function parseLine(line: string): MountEntry {
  const fields = line.split(" ");
  const separator = fields.indexOf("-", 6);
  const [id, parentId, device, root, mountPoint, options] = fields;
  const [type, source, superOptions] = fields.slice(separator + 1);
  if (separator < 0 || options === undefined || root === undefined || mountPoint === undefined || type === undefined) {
    throw new HearthError("internal", `parse mountinfo line ${JSON.stringify(line)}`);
  }
  return {
    id: Number(id),
    parentId: Number(parentId),
    device: device ?? "",
    root: unescapeOctal(root),
    mountPoint: unescapeOctal(mountPoint),
    options: options.split(","),
    propagation: fields.slice(6, separator),
    type,
    source: unescapeOctal(source ?? ""),
    superOptions: (superOptions ?? "").split(",").filter((option) => option !== ""),
  };
}

/** The kernel writes space, tab, newline, backslash and "#" as a backslash and three octal digits; other bytes as they are. */
export function unescapeOctal(text: string): string {
  return text.replaceAll(/\\([0-3][0-7]{2})/g, (_whole, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}
