/** What a test left on the machine: processes, mounts, interfaces, namespaces, cgroups, files. */
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { isErrnoException } from "../../src/errors.ts";
import { parseMountinfo } from "../../src/sys/mountinfo.ts";
import { type ProcessStat, processStat } from "../../src/sys/process-identity.ts";

/** Things that have names and outlive their makers, each as a line to show. */
export type Snapshot = ReadonlySet<string>;

/** Directories whose entries a test with its own directories never makes. */
const DEFAULT_PLACES = [
  "/run/hearth",
  "/run/hearth/vm",
  "/run/hearth/containers",
  "/var/lib/hearth",
  "/var/lib/hearth/guest",
];
/** Mounted on itself with the first named network namespace since boot, and kept for the next. Source: ip-netns(8), CNI. */
const NETNS_DIR = "/run/netns";
const CGROUP_ROOT = "/sys/fs/cgroup";
/** Depth at which engines put a container's cgroup: controller, parent, pod, container. */
const CGROUP_DEPTH_MAX = 5;

export function takeSnapshot(): Snapshot {
  const mounts = mountPoints()
    .filter((path) => path !== NETNS_DIR)
    .map((path) => `mount ${path}`);
  const interfaces = names("/sys/class/net").map((name) => `network interface ${name}`);
  const namespaces = names(NETNS_DIR).map((name) => `network namespace ${name}`);
  const cgroups = cgroupsBelow(CGROUP_ROOT, CGROUP_DEPTH_MAX).map((path) => `cgroup ${path}`);
  const files = DEFAULT_PLACES.flatMap((dir) => names(dir).map((name) => `file ${join(dir, name)}`));
  return new Set([...mounts, ...interfaces, ...namespaces, ...cgroups, ...files]);
}

/** What there is now and was not there before. */
export function addedSince(before: Snapshot): string[] {
  return [...takeSnapshot()].filter((line) => !before.has(line));
}

export function mountPoints(): string[] {
  return parseMountinfo(readFileSync("/proc/self/mountinfo", "utf8")).map((entry) => entry.mountPoint);
}

export function mountsBelow(dir: string): string[] {
  return mountPoints().filter((path) => path === dir || path.startsWith(`${dir}/`));
}

function names(dir: string): string[] {
  return existsSync(dir) ? readdirSync(dir) : [];
}

function cgroupsBelow(dir: string, depth: number): string[] {
  if (depth === 0 || !existsSync(dir)) return [];
  const children = readdirSync(dir, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return children.flatMap(({ name }) => [join(dir, name), ...cgroupsBelow(join(dir, name), depth - 1)]);
}

/** Processes that have not ended; a zombie has. */
export function livingProcesses(): ProcessStat[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  const stats = pids.map((pid) => processStat(Number(pid)));
  return stats.filter((stat) => stat !== undefined).filter(({ state }) => state !== "Z" && state !== "X");
}

/** Living children, their children and so on, of a process. */
export function descendantsOf(pid: number): ProcessStat[] {
  const living = livingProcesses();
  const found: ProcessStat[] = [];
  for (let parents = new Set([pid]); parents.size > 0; ) {
    const children = living.filter((stat) => parents.has(stat.parentPid));
    found.push(...children);
    parents = new Set(children.map((child) => child.pid));
  }
  return found;
}

/** Living processes that have something of `dir` open, run in it, or name it in their arguments; not ourselves. */
export function processesUsing(dir: string): ProcessStat[] {
  return livingProcesses().filter(({ pid }) => pid !== process.pid && uses(pid, dir));
}

function uses(pid: number, dir: string): boolean {
  const proc = `/proc/${pid}`;
  const isBelow = (path: string): boolean => path === dir || path.startsWith(`${dir}/`);
  const links = ["cwd", "root", "exe", ...readable(() => readdirSync(`${proc}/fd`), []).map((fd) => `fd/${fd}`)];
  if (links.some((link) => isBelow(readable(() => readlinkSync(`${proc}/${link}`), "")))) return true;
  return readable(() => readFileSync(`${proc}/cmdline`, "utf8"), "").includes(dir);
}

/** A process may go away, or refuse to be looked into, at any time. */
function readable<T>(read: () => T, otherwise: T): T {
  try {
    return read();
  } catch (thrown) {
    if (isErrnoException(thrown)) return otherwise;
    throw thrown;
  }
}

/** `pid 17 qemu-system-x86 -machine …`, cut to one line. */
export function describeProcess({ pid, command }: ProcessStat): string {
  const argv = readable(() => readFileSync(`/proc/${pid}/cmdline`, "utf8"), "")
    .replaceAll("\0", " ")
    .trim();
  return `process ${pid} ${command}: ${argv.slice(0, 160)}`;
}
