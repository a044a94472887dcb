/** Mounts as they have to do with the root file system that they are made in, and with those made before them. Pure. */
import { join, relative } from "node:path";
import type { Mount } from "../oci/spec.ts";

/**
 * The mounts with destinations from the root: runc takes those that begin with its path on the host too. A tmpfs without a
 * mode gets that of the directory that it covers, as under runc. `rootfs` is absolute; `modeOf` tells the mode of a
 * directory in it, undefined where there is none.
 */
export function mountsInRootfs(
  mounts: readonly Mount[],
  rootfs: string,
  modeOf: (destination: string) => number | undefined,
): Mount[] {
  const rooted = mounts.map((mount) => {
    const inside = insideOf(rootfs, mount.destination);
    return inside === undefined || rootfs === "/" ? mount : { ...mount, destination: join("/", inside) };
  });
  return rooted.map((mount, index) => {
    const { type, destination, options = [] } = mount;
    if (type !== "tmpfs" || options.some((option) => option.startsWith("mode="))) return mount;
    if (isCovered(destination, rooted.slice(0, index))) return mount;
    const mode = modeOf(destination);
    return mode === undefined ? mount : { ...mount, options: [...options, `mode=${mode.toString(8)}`] };
  });
}

/** Where in the root file system a source on the host shows what an earlier mount has put there; undefined: nowhere. */
export function mountedSource(source: string, rootfs: string, earlier: readonly Mount[]): string | undefined {
  const inside = insideOf(rootfs, source);
  return inside !== undefined && isCovered(inside, earlier) ? inside : undefined;
}

/** One of the mounts is at the path, or above it. */
function isCovered(path: string, mounts: readonly Mount[]): boolean {
  return mounts.some(({ destination }) => insideOf(join("/", destination), join("/", path)) !== undefined);
}

/** The path from `directory`, "" for itself; undefined for one that is not in it. */
export function insideOf(directory: string, path: string): string | undefined {
  if (!path.startsWith("/")) return undefined;
  const inside = relative(directory, path);
  return inside === ".." || inside.startsWith("../") ? undefined : inside;
}
