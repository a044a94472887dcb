/** The container's cgroup on the host: one directory per v1 hierarchy, or one of v2, holding shim, QEMU and sandbox process. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { HearthError, isErrnoException, toHearthError } from "../errors.ts";
import { CGROUP_REMOVE_ATTEMPTS_MAX, CGROUP_REMOVE_RETRY_MS } from "../limits.ts";

/** Where cgroup hierarchies are mounted. `unified` is true when the host has cgroup v2 alone. */
export interface CgroupLayout {
  readonly unified: boolean;
  readonly mountPoints: readonly string[];
}

/** Reads the hierarchies from mountinfo text; a v2 mount beside v1 hierarchies (hybrid) is left alone. */
export function parseCgroupLayout(mountinfo: string): CgroupLayout {
  const v1: string[] = [];
  const v2: string[] = [];
  for (const line of mountinfo.split("\n")) {
    const [head, tail] = line.split(" - ");
    const mountPoint = head?.split(" ")[4];
    const type = tail?.split(" ")[0];
    if (mountPoint === undefined) continue;
    if (type === "cgroup") v1.push(mountPoint);
    if (type === "cgroup2") v2.push(mountPoint);
  }
  const first = v2[0];
  if (v1.length > 0) return { unified: false, mountPoints: [...new Set(v1)] };
  return { unified: first !== undefined, mountPoints: first === undefined ? [] : [first] };
}

/**
 * The path below each hierarchy for the configuration's `cgroupsPath`: absolute or relative as given, systemd's
 * `slice:prefix:name` expanded, `/hearth-<containerId>.scope` when there is none.
 * Fails with invalid-argument for a path that leaves the hierarchy.
 */
export function cgroupPathOf(cgroupsPath: string | undefined, containerId: string): string {
  if (cgroupsPath === undefined || cgroupsPath === "") return `/hearth-${containerId}.scope`;
  const parts = cgroupsPath.split(":");
  const [slice, prefix, name] = parts;
  if (parts.length === 3 && slice !== undefined && prefix !== undefined && name) {
    return join(expandSlice(slice || "system.slice"), name.endsWith(".slice") ? name : `${prefix}-${name}.scope`);
  }
  if (cgroupsPath.split("/").includes("..")) {
    throw new HearthError("invalid-argument", `use cgroupsPath ${cgroupsPath}: it leaves the hierarchy`);
  }
  return normalize(join("/", cgroupsPath));
}

/** `a-b.slice` lives in `a.slice/a-b.slice`. Source: systemd.slice(5). */
function expandSlice(slice: string): string {
  if (slice === "-.slice") return "/";
  const names = slice.replace(/\.slice$/, "").split("-");
  return `/${names.map((_, index) => `${names.slice(0, index + 1).join("-")}.slice`).join("/")}`;
}

/** A container's directory in one hierarchy. */
export interface CgroupDirectory {
  readonly mountPoint: string;
  readonly dir: string;
}

/** Where the container's directories are, or will be; empty where the host has no cgroups. Makes nothing. */
export function hostCgroup(cgroupsPath: string | undefined, containerId: string): CgroupDirectory[] {
  const layout = parseCgroupLayout(readFileSync("/proc/self/mountinfo", "utf8"));
  const path = cgroupPathOf(cgroupsPath, containerId);
  return layout.mountPoints.map((mountPoint) => ({ mountPoint, dir: join(mountPoint, path) }));
}

/** Of the hierarchies that the directories are in: every directory of v2 has this file. */
export function cgroupVersion(dirs: readonly string[]): 1 | 2 {
  return dirs.some((dir) => existsSync(join(dir, "cgroup.controllers"))) ? 2 : 1;
}

/**
 * Fails with failed-precondition when processes are in the directories or below: limits would be theirs too, and the
 * directories could not be removed with the container. As runc since 1.2; earlier ones warn. `isLent` is asked only then,
 * whether they are expected there.
 */
export function checkHostCgroupEmpty(dirs: readonly string[], isLent: () => boolean): void {
  for (const dir of dirs) {
    const processes = withThoseBelow(dir).flatMap((one) => readTrimmed(join(one, "cgroup.procs")).match(/\d+/g) ?? []);
    if (processes.length === 0) continue;
    if (isLent()) return;
    throw new HearthError(
      "failed-precondition",
      `container's cgroup is not empty: ${processes.length} process(es) found`,
      { facts: { dir } },
    );
  }
}

/** The directory and those below it, outer ones first; none where it is missing. */
function withThoseBelow(dir: string): string[] {
  try {
    const below = readdirSync(dir, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    return [dir, ...below.flatMap(({ name }) => withThoseBelow(join(dir, name)))];
  } catch (thrown) {
    if (isErrnoException(thrown) && thrown.code === "ENOENT") return [];
    throw toHearthError(thrown, `read cgroup ${dir}`);
  }
}

/**
 * Makes the directories; existing ones are joined, and stay when another cannot be made. One that is frozen is a
 * failed-precondition: the VM would stand still in it, and every wait for it would run out.
 */
export function createHostCgroup(directories: readonly CgroupDirectory[]): void {
  const made: string[] = [];
  for (const { mountPoint, dir } of directories) {
    try {
      if (mkdirSync(dir, { recursive: true, mode: 0o755 }) !== undefined) made.push(dir);
      if (isFrozen(dir)) {
        throw new HearthError("failed-precondition", "container's cgroup unexpectedly frozen", { facts: { dir } });
      }
      inheritCpuset(mountPoint, dir);
    } catch (cause) {
      removeDirectories(made);
      throw toHearthError(cause, `create cgroup ${dir}`);
    }
  }
}

/** By itself or with one above it. Source: kernel, cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst (cgroup.events). */
function isFrozen(dir: string): boolean {
  if (/^frozen 1$/m.test(readTrimmed(join(dir, "cgroup.events")))) return true;
  return /^FR(?:EEZING|OZEN)$/.test(readTrimmed(join(dir, "freezer.state")));
}

/** A new v1 cpuset is empty and takes no process before it has CPUs and memory nodes; they are the parent's. */
function inheritCpuset(mountPoint: string, dir: string): void {
  for (const file of ["cpuset.cpus", "cpuset.mems"]) {
    const missing: string[] = [];
    let at = dir;
    let value = "";
    for (; ; at = dirname(at)) {
      value = readTrimmed(join(at, file));
      if (value !== "" || at === mountPoint || at.length <= mountPoint.length) break;
      missing.unshift(at);
    }
    if (value === "") return;
    for (const directory of missing) {
      if (hasFile(directory, file)) writeFileSync(join(directory, file), value);
    }
  }
}

function readTrimmed(path: string): string {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return "";
  }
}

function hasFile(dir: string, name: string): boolean {
  return readdirSync(dir).includes(name);
}

/** Moves a process into each of the directories. A process already gone is no error. */
export function addToHostCgroup(dirs: readonly string[], pid: number): void {
  for (const dir of dirs) {
    try {
      writeFileSync(join(dir, "cgroup.procs"), String(pid));
    } catch (cause) {
      if (isErrnoException(cause) && cause.code === "ESRCH") return;
      throw toHearthError(cause, `move process ${pid} into cgroup ${dir}`);
    }
  }
}

/**
 * Removes the directories that are ours, with what was made below them; one that is gone is no error. The kernel empties a cgroup
 * a moment after its last process died, hence the bounded retry. Fails with failed-precondition while in use.
 */
export async function removeHostCgroup(dirs: readonly string[]): Promise<void> {
  let left = [...dirs];
  for (let attempt = 0; attempt < CGROUP_REMOVE_ATTEMPTS_MAX; attempt++) {
    left = removeDirectories(left);
    if (left.length === 0) return;
    await new Promise((resolve) => setTimeout(resolve, CGROUP_REMOVE_RETRY_MS));
  }
  throw new HearthError("failed-precondition", `remove cgroup ${left[0]}: still in use`);
}

function removeDirectories(dirs: readonly string[]): string[] {
  return dirs.filter((dir) => {
    try {
      for (const one of withThoseBelow(dir).toReversed()) rmdirSync(one);
      return false;
    } catch (cause) {
      return !(isErrnoException(cause) && cause.code === "ENOENT");
    }
  });
}
