/** What of this machine a test host needs that has no share of its files: programs with their libraries, and what was built. */
import { lstatSync, readlinkSync, realpathSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { mustRunProgram, PATH } from "../program.ts";

const REPOSITORY = resolve(import.meta.dir, "../../..");
const PROGRAMS = [
  ...[
    "bash",
    "sh",
    "cat",
    "cp",
    "date",
    "dirname",
    "grep",
    "ls",
    "mkdir",
    "pgrep",
    "rtcwake",
    "sleep",
    "stat",
    "tail",
    "tr",
  ],
  "qemu-system-x86_64",
];
const STATIC_PROGRAMS = ["busybox"];
const FIRMWARE = ["/usr/share/qemu", "/usr/share/seabios"];
/** A module of QEMU's. */
const EMULATOR = "/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so";
/** Links of a system whose programs and libraries are all in /usr. */
const LINKS = ["/bin", "/sbin", "/lib", "/lib64"];
const ACCOUNTS = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"];
const OF_REPOSITORY = ["package.json", "tsconfig.json", "src", "test/fixtures", "test/harness", "build/guest", "dist"];

/** Paths of files, links and directories, none through a link: enough for a nested hearth, the test host's server and `more`. */
export async function carriedFiles(more: readonly string[]): Promise<string[]> {
  const programs = [process.execPath, EMULATOR, ...PROGRAMS.map(programPath)];
  const ldd = await mustRunProgram(["ldd", ...programs]);
  const libraries = [...ldd.stdout.matchAll(/^\t(?:\S+ => )?(\/\S+) \(/gm)].map(([, path = ""]) => path);
  const repository = OF_REPOSITORY.map((path) => join(REPOSITORY, path));
  const needed = [
    ...programs,
    ...STATIC_PROGRAMS.map(programPath),
    ...libraries,
    ...FIRMWARE,
    ...ACCOUNTS,
    ...repository,
    ...more,
  ];
  return [...new Set([...LINKS, ...needed.flatMap(withTargets)])];
}

function programPath(name: string): string {
  const path = Bun.which(name, { PATH });
  if (path === null) throw new Error(`no program ${name} on this machine`);
  return path;
}

/** The path by its true directory; of a link, what it leads to as well. */
function withTargets(path: string): string[] {
  const found = join(realpathSync(dirname(path)), basename(path));
  return lstatSync(found).isSymbolicLink()
    ? [found, ...withTargets(resolve(dirname(found), readlinkSync(found)))]
    : [found];
}
