/**
 * Whether a user may execute a program, before there is an error that comes too late: crun looks for it as root, and that the
 * kernel refuses it to a container's user shows only when the container runs. Source: path_resolution(7), "Permissions".
 */
import { type Stats, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { SystemError } from "../../errors.ts";
import { resolveInRoot } from "../../sys/open-in-root.ts";
import { programNotExecutable } from "./exec-failure.ts";
import { type JsonRecord, listAt, recordAt } from "./json-record.ts";

/** Fails with permission-denied. What is missing, or no program, crun tells. `root` is where the process has its root directory. */
export function checkExecutable(root: string, process: JsonRecord): void {
  const { uid, gid, additionalGids } = recordAt(process, "user");
  const capabilities = listAt(recordAt(process, "capabilities"), "effective");
  const [program] = listAt(process, "args");
  if (typeof program !== "string" || typeof uid !== "number" || uid === 0) return;
  if (capabilities.includes("CAP_DAC_OVERRIDE")) return;
  const mayEnterAny = capabilities.includes("CAP_DAC_READ_SEARCH");
  const groups = new Set([gid ?? 0, ...(Array.isArray(additionalGids) ? additionalGids : [])]);
  const may = ({ mode, uid: owner, gid: group }: Stats): boolean => {
    const place = owner === uid ? 0o100 : groups.has(group) ? 0o010 : 0o001;
    return (mode & place) !== 0;
  };
  const found = pathsOf(program, process)
    .map((path) => placeOf(root, path))
    .find((place) => place !== undefined && isProgram(statOf(root, place)));
  if (found === undefined) return;
  for (let directory = dirname(found); !mayEnterAny; directory = dirname(directory)) {
    const stats = statOf(root, directory);
    if (stats !== undefined && !may(stats)) throw programNotExecutable(program, `stat ${program}: permission denied`);
    if (directory === "/") break;
  }
  const stats = statOf(root, found);
  if (stats !== undefined && !may(stats)) throw programNotExecutable(program, "permission denied");
}

/** Where crun looks, in its order. */
function pathsOf(program: string, process: JsonRecord): string[] {
  const { cwd } = process;
  const here = typeof cwd === "string" ? cwd : "/";
  if (program.includes("/")) return [resolve(here, program)];
  const variable = listAt(process, "env").findLast((entry) => typeof entry === "string" && entry.startsWith("PATH="));
  const directories = typeof variable === "string" ? variable.slice("PATH=".length).split(":") : [];
  return directories.map((directory) => resolve(here, directory, program));
}

function placeOf(root: string, path: string): string | undefined {
  try {
    return resolveInRoot(root, path, () => false);
  } catch (thrown) {
    if (thrown instanceof SystemError) return undefined;
    throw thrown;
  }
}

function statOf(root: string, place: string): Stats | undefined {
  return statSync(join(root, place), { throwIfNoEntry: false });
}

function isProgram(stats: Stats | undefined): boolean {
  return stats?.isFile() === true && (stats.mode & 0o111) !== 0;
}
