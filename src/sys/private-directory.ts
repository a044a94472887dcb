/** Directories that nobody else can put anything into. */
import { lstatSync, mkdirSync } from "node:fs";
import { HearthError, toHearthError } from "../errors.ts";

/** Permission bits with which somebody else could put his own socket in the place of ours. */
const WRITABLE_BY_OTHERS = 0o022;
const STICKY = 0o1000;

/** Created 0700 when it is missing, its parents too; refused when others could write to it. */
export function makePrivateDirectory(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    const { mode, uid } = lstatSync(dir);
    const isShared = (mode & WRITABLE_BY_OTHERS) !== 0 && (mode & STICKY) === 0;
    if (isShared || (uid !== 0 && uid !== process.getuid?.())) {
      throw new HearthError("permission-denied", `use directory ${dir}: others may replace what is in it`, {
        hint: `chown root and chmod 0700 ${dir}`,
      });
    }
  } catch (thrown) {
    throw toHearthError(thrown, `make directory ${dir}`);
  }
}
