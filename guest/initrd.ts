/** Packs the small initrd that mounts the root image: busybox, the drivers that a boot needs, and init. */
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type CpioEntry, writeCpio } from "./cpio.ts";
import { INITRD_MODULES } from "./module-list.ts";
import { type ModuleSource, resolveModules, withoutSignature } from "./modules.ts";

export interface InitrdContents {
  readonly init: string;
  readonly busybox: string;
  readonly modules: ModuleSource;
  readonly kernelVersion: string;
  /** Default: those of the guest's initrd. */
  readonly moduleNames?: readonly string[];
}

/** An uncompressed archive: under emulation, decompressing costs more than reading. */
export async function makeInitrd(contents: InitrdContents): Promise<Uint8Array<ArrayBuffer>> {
  const { modules, kernelVersion } = contents;
  const directory = `lib/modules/${kernelVersion}`;
  const names = contents.moduleNames ?? INITRD_MODULES;
  const paths = resolveModules(names, modules.table, modules.builtin, modules.soft);
  const files: CpioEntry[] = [
    { type: "file", path: "init", mode: 0o755, data: await readFile(contents.init) },
    { type: "file", path: "bin/busybox", mode: 0o755, data: await readFile(contents.busybox) },
    { type: "file", path: `${directory}/modules.dep`, data: new TextEncoder().encode(dependencyLines(modules, paths)) },
  ];
  for (const path of paths) {
    const data = withoutSignature(new Uint8Array(await readFile(join(modules.directory, path))));
    files.push({ type: "file", path: `${directory}/${path}`, data });
  }
  return writeCpio([...directoriesOf(files), ...files]);
}

function dependencyLines(modules: ModuleSource, paths: readonly string[]): string {
  const entries = [...modules.table.values()].filter(({ path }) => paths.includes(path));
  return entries.map(({ path, needs }) => `${path}: ${needs.join(" ")}\n`).join("");
}

function directoriesOf(files: readonly CpioEntry[]): readonly CpioEntry[] {
  const paths = new Set<string>(["dev", "etc", "proc", "root"]);
  for (const file of files) {
    for (let path = dirname(file.path); path !== "."; path = dirname(path)) paths.add(path);
  }
  return [...paths].sort().map((path) => ({ type: "directory", path }));
}
