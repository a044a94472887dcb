/**
 * A room of its own for one test file: mounts, network, processes and cgroups that no other file sees, so that several
 * run side by side and what one leaves behind is known to be its own. It ends with its first process, and all that is
 * still in it with it.
 */
import { mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CgroupDirectory, createHostCgroup, removeHostCgroup } from "../../src/sandbox/cgroup.ts";
import type { Environment } from "../../src/sys/environment.ts";
import { asFd } from "../../src/sys/fd.ts";
import { listMounts, mount, unmount } from "../../src/sys/mount.ts";
import type { MountEntry } from "../../src/sys/mountinfo.ts";
import { type ChildProcess, spawnProcess } from "../../src/sys/process.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";

const CGROUPS = "/sys/fs/cgroup";
/** In cgroup v2 only a directory without processes hands its controllers on to those below: ours are in this one of them. */
const LEAF = "tests";
/**
 * Joins the cgroups named before "--", so that the new cgroup namespace begins there, then their leaves where there are
 * any, and becomes what comes after it.
 */
const ENTER = `
for dir; do [ "$dir" != -- ] || break; echo $$ > "$dir/cgroup.procs"; done
exec unshare --cgroup -- /bin/sh -euc '
  while [ "$1" != -- ]; do [ ! -d "$1/${LEAF}" ] || echo $$ > "$1/${LEAF}/cgroup.procs"; shift; done
  shift
  exec unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private -- "$@"
' sh "$@"`;

export interface Cell extends AsyncDisposable {
  /** Ends when its first process ends; killing it ends everything in the cell. */
  readonly process: ChildProcess;
}

export interface CellOptions {
  /** Part of the names of its cgroups: unique on the machine. */
  readonly name: string;
  /** What runs in it; it calls `furnishCell` first. */
  readonly argv: readonly string[];
  readonly cwd: string;
  readonly env: Environment;
}

/** Opens a cell; standard output and error are ours. Needs root. Disposing it removes its cgroups. */
export function openCell({ name, argv, cwd, env }: CellOptions): Cell {
  const mounts = cgroupMounts();
  const cgroups: CgroupDirectory[] = mounts.map(({ mountPoint }) => ({ mountPoint, dir: join(mountPoint, name) }));
  createHostCgroup(cgroups);
  if (isUnified(mounts)) mkdirSync(join(CGROUPS, name, LEAF));
  const dirs = cgroups.map(({ dir }) => dir);
  const child = spawnProcess({
    argv: ["/bin/sh", "-euc", ENTER, "sh", ...dirs, "--", ...argv],
    cwd,
    env,
    stdio: ["ignore", asFd(1), asFd(2)],
  });
  return {
    process: child,
    [Symbol.asyncDispose]: () => removeHostCgroup(dirs),
  };
}

/** Called by the cell's first process: mounts that show its own network, cgroups and files at run time; loopback up. */
export async function furnishCell(): Promise<void> {
  const cgroups = cgroupMounts();
  const links = symbolicLinks(CGROUPS);
  // With all that is below it: what the mounts outside show is not ours.
  unmount("/sys", { detach: true });
  mount({ source: "sysfs", target: "/sys", type: "sysfs" });
  if (!cgroups.some(({ mountPoint }) => mountPoint === CGROUPS)) {
    mount({ source: "tmpfs", target: CGROUPS, type: "tmpfs", data: "mode=755" });
  }
  for (const { mountPoint, type, superOptions } of cgroups) {
    mkdirSync(mountPoint, { recursive: true });
    // Named options only: of the hierarchy that exists already, the others are refused.
    const data =
      type === "cgroup" ? superOptions.filter((option) => !/^(?:r[wo]|xattr|release_agent=)/.test(option)) : [];
    mount({ source: type, target: mountPoint, type, data: data.join(",") });
  }
  for (const [link, target] of links) symlinkSync(target, link);
  if (isUnified(cgroups)) delegateControllers();
  mount({ source: "tmpfs", target: "/run", type: "tmpfs", data: "mode=755" });
  await runOrThrow(["ip", "link", "set", "lo", "up"]);
}

/** True where the host has cgroup v2 alone. */
function isUnified(mounts: readonly MountEntry[]): boolean {
  return mounts.length === 1 && mounts[0]?.type === "cgroup2";
}

/** The directory is ours to hand on: all that is in the cell is in its leaf. */
function delegateControllers(): void {
  const controllers = readFileSync(join(CGROUPS, "cgroup.controllers"), "utf8").split(/\s/).filter(Boolean);
  writeFileSync(join(CGROUPS, "cgroup.subtree_control"), controllers.map((name) => `+${name}`).join(" "));
}

/** Where each hierarchy is mounted; of mounts on one place only the last can be seen. */
function cgroupMounts(): MountEntry[] {
  const mounts = listMounts().filter(({ type }) => type === "cgroup" || type === "cgroup2");
  return [...new Map(mounts.map((entry) => [entry.mountPoint, entry])).values()];
}

/** `cpu` that leads to `cpu,cpuacct`, as distributions have them: path and target. */
function symbolicLinks(dir: string): [string, string][] {
  const links = readdirSync(dir, { withFileTypes: true }).filter((entry) => entry.isSymbolicLink());
  return links.map(({ name }) => [join(dir, name), readlinkSync(join(dir, name))]);
}
