/** Chooses kernel modules with all they depend on, and prepares them for loading under emulation. */
import { existsSync } from "node:fs";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { HearthError } from "../src/errors.ts";
import { run } from "./command.ts";
import type { KernelTree } from "./kernel.ts";

/** Path of each module under lib/modules/<version>, and the paths it depends on. */
export type ModuleTable = ReadonlyMap<string, { readonly path: string; readonly needs: readonly string[] }>;

/** Modules are named with "_" whatever their file is called. */
export function moduleName(path: string): string {
  return basename(path)
    .replace(/\.ko(\.(xz|zst|gz))?$/, "")
    .replaceAll("-", "_");
}

/** Reads what depmod wrote (modules.dep: `path: path path…`, direct and indirect dependencies, ready to load in reverse). */
export function parseModulesDep(text: string): ModuleTable {
  const table = new Map<string, { path: string; needs: readonly string[] }>();
  for (const line of text.split("\n")) {
    const colon = line.indexOf(":");
    if (colon === -1) continue;
    const path = line.slice(0, colon);
    const needs = line
      .slice(colon + 1)
      .split(" ")
      .filter((each) => each !== "");
    table.set(moduleName(path), { path, needs });
  }
  return table;
}

/** Names of "softdep NAME pre: A B" lines that have to be there too. */
export function parseSoftDependencies(text: string): ReadonlyMap<string, readonly string[]> {
  const table = new Map<string, string[]>();
  for (const line of text.split("\n")) {
    const match = /^softdep (\S+) (.*)$/.exec(line);
    if (match?.[1] === undefined || match[2] === undefined) continue;
    const names = match[2].split(" ").filter((word) => word !== "" && !word.endsWith(":"));
    const name = moduleName(match[1]);
    table.set(name, [...(table.get(name) ?? []), ...names.map((each) => each.replaceAll("-", "_"))]);
  }
  return table;
}

/**
 * Paths of the named modules and all they depend on, sorted; modules built into the kernel are left out.
 * Errors: "not-found" for a name this kernel does not know.
 */
export function resolveModules(
  names: readonly string[],
  table: ModuleTable,
  builtin: ReadonlySet<string>,
  soft: ReadonlyMap<string, readonly string[]>,
): readonly string[] {
  const paths = new Set<string>();
  const pending = [...names];
  const seen = new Set<string>();
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    if (seen.has(name) || builtin.has(name)) continue;
    seen.add(name);
    const found = table.get(name);
    if (found === undefined) {
      if (!names.includes(name)) continue; // a soft dependency may be an alias or may not exist
      throw new HearthError("not-found", `find kernel module ${name}`, { hint: "mend guest/module-list.ts" });
    }
    paths.add(found.path);
    pending.push(...found.needs.map(moduleName), ...(soft.get(name) ?? []));
  }
  return [...paths].sort();
}

export interface ModuleSource {
  readonly table: ModuleTable;
  readonly builtin: ReadonlySet<string>;
  readonly soft: ReadonlyMap<string, readonly string[]>;
  /** lib/modules/<version> of the unpacked package. */
  readonly directory: string;
}

export async function readModuleSource(tree: KernelTree): Promise<ModuleSource> {
  const directory = join(tree.root, "lib/modules", tree.version);
  if (!existsSync(join(directory, "modules.dep"))) await run(["depmod", "-b", tree.root, tree.version]);
  const [dep, builtin, softdep] = await Promise.all(
    ["modules.dep", "modules.builtin", "modules.softdep"].map((name) => readFile(join(directory, name), "utf8")),
  );
  return {
    table: parseModulesDep(dep ?? ""),
    builtin: new Set(
      (builtin ?? "")
        .split("\n")
        .filter((line) => line !== "")
        .map(moduleName),
    ),
    soft: parseSoftDependencies(softdep ?? ""),
    directory,
  };
}

// Source: the kernel's scripts/sign-file.c and include/linux/module_signature.h.
const SIGNATURE_MAGIC = "~Module signature appended~\n";
const SIGNATURE_INFO_BYTES = 12;

/**
 * The module without its appended signature. Checking an RSA-4096 signature costs tens of milliseconds a module under
 * emulation, and the image that carries the modules is covered by the guest's digest.
 */
export function withoutSignature(module: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const magicAt = module.length - SIGNATURE_MAGIC.length;
  const infoAt = magicAt - SIGNATURE_INFO_BYTES;
  if (infoAt < 0 || new TextDecoder("latin1").decode(module.subarray(magicAt)) !== SIGNATURE_MAGIC) return module;
  const signatureBytes = new DataView(module.buffer, module.byteOffset + infoAt).getUint32(8, false);
  if (signatureBytes > infoAt) throw new HearthError("invalid-argument", "read module signature: longer than its file");
  return module.subarray(0, infoAt - signatureBytes);
}

/** What depmod reads or writes for kmod alone; busybox's modprobe reads modules.dep, modules.alias and modules.builtin. */
const UNREAD_TABLES: readonly string[] = [
  "modules.alias.bin",
  "modules.builtin.alias.bin",
  "modules.builtin.bin",
  "modules.builtin.modinfo",
  "modules.dep.bin",
  "modules.devname",
  "modules.order",
  "modules.symbols",
  "modules.symbols.bin",
];

/** Copies modules into `<root>/lib/modules/<version>` and writes the tables that modprobe reads. */
export async function installModules(
  source: ModuleSource,
  version: string,
  paths: readonly string[],
  root: string,
): Promise<void> {
  const target = join(root, "lib/modules", version);
  for (const path of paths) {
    const to = join(target, path);
    await mkdir(dirname(to), { recursive: true });
    await writeFile(to, withoutSignature(new Uint8Array(await readFile(join(source.directory, path)))));
  }
  for (const name of ["modules.builtin", "modules.builtin.modinfo", "modules.order"]) {
    await writeFile(join(target, name), await readFile(join(source.directory, name)));
  }
  await run(["depmod", "-b", root, version]);
  await Promise.all(UNREAD_TABLES.map((name) => rm(join(target, name), { force: true })));
}
