/** A program of this machine in a container's root file system, with the libraries that it needs. */
import { copyFileSync, mkdirSync } from "node:fs";
import { basename, join } from "node:path";
import { resolveLibraries } from "../../guest/image.ts";

/** The loader is named in programs by its path; it looks for libraries here, as Debian has them. */
const LOADER = /^ld-linux/;
const LIBRARIES = "usr/lib/x86_64-linux-gnu";

/** It becomes `/usr/bin/NAME` in `rootfs`. */
export async function copyProgram(program: string, rootfs: string): Promise<void> {
  const copy = (from: string, dir: string, name: string): void => {
    mkdirSync(join(rootfs, dir), { recursive: true });
    copyFileSync(from, join(rootfs, dir, name));
  };
  copy(program, "usr/bin", basename(program));
  for (const [name, path] of await resolveLibraries([program]))
    copy(path, LOADER.test(name) ? "lib64" : LIBRARIES, name);
}
