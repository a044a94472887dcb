/** Mounts as they have to do with the root file system that they are made in, and with those made before them. Pure. */
import { join, relative, resolve } from "node:path";
import { HearthError } from "../errors.ts";
import type { Mount, Spec } from "../oci/spec.ts";

/** Of a bind mount at the root: it cannot have others. */
const OF_ROOT = /^(?:r?bind|ro|rw|defaults|r?(?:private|slave|shared|unbindable))$/;

/**
 * A directory that is mounted at the root takes its place, and what was mounted before is hidden with it. As runc 1.1; later ones refuse
 * it. The root itself, which has what is mounted in it by then, changes nothing.
 */
export function withRootMounted(spec: Spec, bundle: string): Spec {
  const { root, mounts = [] } = spec;
  const at = mounts.findLastIndex((mount) => isBindMount(mount) && join("/", mount.destination) === "/");
  const { source, options = [] } = mounts[at] ?? {};
  if (root === undefined || source === undefined || !options.every((option) => OF_ROOT.test(option))) return spec;
  const readonly = root.readonly === true || options.findLast((option) => option === "ro" || option === "rw") === "ro";
  const path = resolve(bundle, source);
  if (path === resolve(bundle, root.path)) {
    return withRootMounted({ ...spec, root: { ...root, readonly }, mounts: mounts.toSpliced(at, 1) }, bundle);
  }
  return { ...spec, root: { ...root, path, readonly }, mounts: mounts.slice(at + 1) };
}

export function isBindMount({ type, options = [] }: Mount): boolean {
  return type === "bind" || options.includes("bind") || options.includes("rbind");
}

/** What the host knows of the root file system. */
export interface RootfsView {
  /** Mode of a directory in it, or in the source of a bind mount, undefined where there is none. */
  readonly modeOf: (path: string, source?: string) => number | undefined;
  /** Where a path leads in it; nothing that is in what `isHidden` names is looked at. */
  readonly placeOf: (path: string, isHidden: (place: string) => boolean) => string;
}

/**
 * The mounts with their destinations as the root has them, absolute and without links: runc takes those that begin with its path on the
 * host too. A tmpfs without a mode gets that of the directory that it covers, as under runc. `rootfs` is absolute.
 */
export function mountsInRootfs(mounts: readonly Mount[], rootfs: string, { modeOf, placeOf }: RootfsView): Mount[] {
  const rooted: Mount[] = [];
  for (const mount of mounts) {
    const inside = rootfs === "/" ? undefined : insideOf(rootfs, mount.destination);
    const destination = placeOf(inside ?? mount.destination, (place) => isCovered(place, rooted));
    checkPlace(mount, destination);
    rooted.push({ ...mount, destination });
  }
  const moded: Mount[] = [];
  for (const mount of rooted) {
    const mode =
      isTmpfs(mount) && modeOption(mount) === undefined ? modeAt(mount.destination, moded, modeOf) : undefined;
    moded.push(mode === undefined ? mount : { ...mount, options: [...(mount.options ?? []), mode] });
  }
  return moded;
}

const isTmpfs = ({ type }: Mount): boolean => type === "tmpfs";
const modeOption = ({ options }: Mount): string | undefined => options?.find((option) => option.startsWith("mode="));

/** Of the directory at the place, as an option; undefined where there is none. */
function modeAt(place: string, earlier: readonly Mount[], modeOf: RootfsView["modeOf"]): string | undefined {
  const cover = earlier.findLast(({ destination }) => insideOf(destination, place) !== undefined);
  const inside = insideOf(cover?.destination ?? "/", place) ?? "";
  if (cover !== undefined && isTmpfs(cover)) return inside === "" ? modeOption(cover) : undefined;
  if (cover !== undefined && !isBindMount(cover)) return undefined;
  const mode = cover === undefined ? modeOf(place) : modeOf(join("/", inside), cover.source);
  return mode === undefined ? undefined : `mode=${mode.toString(8)}`;
}

/** Files that lxcfs has a better idea of. Source: runc, checkProcMount. */
const REPLACEABLE: ReadonlySet<string> = new Set(
  [
    ...["cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev"],
    ...["sys/kernel/ns_last_pid", "sys/crypto/fips_enabled"],
  ].map((name) => `/proc/${name}`),
);

/** As runc: nothing hides parts of /proc, by which the kernel is told what the container may do, and the root stays the root. */
function checkPlace({ destination, type, source = "" }: Mount, place: string): void {
  if (place === "/") throw invalid(destination, "mountpoint is on the top of rootfs");
  const inProc = insideOf("/proc", place);
  if (inProc === undefined || REPLACEABLE.has(place)) return;
  if (inProc !== "") throw invalid(destination, `${place} cannot be mounted because it is inside /proc`);
  if (type === "proc" || insideOf("/proc", source) !== undefined) return;
  throw invalid(destination, `${place} cannot be mounted because it is not of type proc`);
}

function invalid(destination: string, why: string): HearthError {
  return new HearthError("invalid-argument", `mount ${destination}: ${why}`);
}

/** What a mount needs to be there; "unknown" is a bind mount of what there is only when it is made. */
export interface MountPoint {
  readonly path: string;
  readonly kind: "directory" | "file" | "unknown";
}

/** Of mounts whose destinations are places in the root: those that are in it itself, and not in an earlier mount. */
export function mountPointsOf(mounts: readonly Mount[], typeOf: (source: string) => string): MountPoint[] {
  return mounts.flatMap((mount, index) => {
    const { destination: path, source = "" } = mount;
    if (isCovered(path, mounts.slice(0, index))) return [];
    if (!isBindMount(mount)) return [{ path, kind: "directory" }];
    const type = typeOf(source);
    return [{ path, kind: type === "directory" || type === "file" ? type : "unknown" }];
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
