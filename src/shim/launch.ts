/** How the runtime tells a new shim what it stands for: arguments of `hearth shim`, and descriptors. */
import { HearthError } from "../errors.ts";
import { type FdUse, parseFdUse } from "../sys/carried-fd.ts";

/** Where a shim lives once its process exists. */
export interface ShimPlace {
  /** Path of the mount namespace. */
  readonly mountNamespace: string;
  /** Paths in it where the shim mounts a /proc of its pid namespace. */
  readonly procPaths: readonly string[];
}

/** One line of text. Undefined: it stays where it was started. */
export function formatShimPlace(place: ShimPlace | undefined): string {
  return JSON.stringify(place ?? {});
}

/** The inverse of formatShimPlace. */
export function parseShimPlace(line: string): ShimPlace | undefined {
  const place: unknown = JSON.parse(line);
  if (typeof place !== "object" || place === null || !("mountNamespace" in place)) return undefined;
  const procPaths: unknown = "procPaths" in place ? place.procPaths : undefined;
  if (typeof place.mountNamespace === "string" && Array.isArray(procPaths)) {
    return { mountNamespace: place.mountNamespace, procPaths: procPaths.map(String) };
  }
  throw new HearthError("invalid-argument", "attach shim: unreadable place");
}

/**
 * A socket: a line from the runtime says that the process exists now, and where the shim lives from then on
 * (formatShimPlace); the shim answers `{"ready":true}` or `{"error":…}`
 * in one line when it owns it. The runtime closes it when the shim may end, at the latest by ending itself.
 */
export const SHIM_REPORT_FD = 3;
/** The first of those that it carries to the process, in the order of `preserved`. */
export const SHIM_PRESERVED_FD = 4;

export interface ShimLaunch {
  /** Socket of the sandbox process. */
  readonly socket: string;
  readonly containerId: string;
  /** The container's id for its init process. */
  readonly execId: string;
  /** "none", "session": descriptor 0 becomes our controlling terminal, "shared": it is our parent's terminal too. */
  readonly terminal: "none" | "session" | "shared";
  /** What the process can do with its descriptors 3, 4, … */
  readonly preserved: readonly FdUse[];
}

export function shimArgs({ socket, containerId, execId, terminal, preserved }: ShimLaunch): string[] {
  return ["shim", socket, containerId, execId, terminal, ...preserved.map(String)];
}

/** The inverse of shimArgs, without the leading "shim". */
export function parseShimArgs(args: readonly string[]): ShimLaunch {
  const [socket, containerId, execId, terminal, ...uses] = args;
  const known = (["none", "session", "shared"] as const).find((kind) => kind === terminal);
  if (socket === undefined || containerId === undefined || execId === undefined || known === undefined) {
    throw new HearthError("invalid-argument", "start shim: it is started by the runtime, not by hand");
  }
  return { socket, containerId, execId, terminal: known, preserved: uses.map((use) => parseFdUse(Number(use))) };
}
