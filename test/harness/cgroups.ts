/** Cgroups that an engine made for its containers and leaves behind itself, with any runtime. */
import { existsSync, readdirSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { isErrnoException } from "../../src/errors.ts";

const CGROUPS = "/sys/fs/cgroup";

/** Removes `parent` and what is below it in every hierarchy; one that is in use stays, and is reported as left behind. */
export function removeEmptyCgroups(parent: string): void {
  for (const hierarchy of ["", ...readdirSync(CGROUPS)]) removeEmpty(join(CGROUPS, hierarchy, parent));
}

function removeEmpty(dir: string): void {
  if (!existsSync(dir)) return;
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    if (entry.isDirectory()) removeEmpty(join(dir, entry.name));
  }
  try {
    rmdirSync(dir);
  } catch (thrown) {
    if (!isErrnoException(thrown) || (thrown.code !== "EBUSY" && thrown.code !== "ENOTEMPTY")) throw thrown;
  }
}
