/** The layers of docs/DESIGN.md as a check: what each file of src/ may import, and how long a file may be. */
import { existsSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

/** Rows from the bottom; a path is the longest prefix that fits. `agent/guest` is apart: it sees rows 0 to 2 only. */
const ROWS: readonly (readonly string[])[] = [
  ["errors.ts", "limits.ts", "paths.ts", "log.ts", "version.ts", "util"],
  ["sys", "gen"],
  ["rpc", "oci", "config"],
  ["hypervisor", "network", "storage", "agent/client", "agent/guest"],
  ["vm"],
  ["factory"],
  ["vmcache", "sandbox"],
  ["shim"],
  ["cli", "main.ts"],
];

/** Row 3 sees row 2, but the guest's agent lives in another machine than the rest of its row. */
const GUEST_AGENT = "agent/guest";
/** The command that starts the agent is the only importer of it. */
const GUEST_AGENT_IMPORTERS: readonly string[] = ["cli"];

/** Who alone may import a library; a trailing slash stands for every file below. */
const LIBRARY_OWNERS: Readonly<Record<string, readonly string[]>> = {
  "@grpc/grpc-js": ["rpc/grpc"],
  "smol-toml": ["config/"],
  citty: ["cli/", "main.ts"],
  consola: ["cli/"],
  "bun:ffi": ["sys/"],
  "node:child_process": ["sys/"],
};

/** Calls that start processes or load code, in src/sys alone. */
const SYS_ONLY_CALLS = /\bBun\.(?:(?:spawn|spawnSync|Terminal)\b|\$)/;

export const FILE_LINES_MAX = 500;
/** Generated code is not ours to split. */
const UNBOUNDED = /^gen\//;

export interface LayerFault {
  /** Relative to src/. */
  readonly file: string;
  readonly line: number;
  readonly reason: string;
}

export interface SourceFile {
  /** Relative to src/. */
  readonly path: string;
  readonly text: string;
}

interface Place {
  readonly row: number;
  readonly unit: string;
}

/** The row and unit of a file of src/, a test's being its source's; undefined when the table does not name it. */
export function placeOf(file: string): Place | undefined {
  const path = file.replace(/\.test\.ts$/, ".ts");
  let best: Place | undefined;
  for (const [row, units] of ROWS.entries()) {
    for (const unit of units) {
      const fits = path === unit || path.startsWith(`${unit}/`);
      if (fits && unit.length > (best?.unit.length ?? 0)) best = { row, unit };
    }
  }
  return best;
}

/** Every module that a file names: static, type-only, re-exported, dynamic, and with `require`. */
export function importsOf(text: string): { readonly specifier: string; readonly line: number }[] {
  const found: { specifier: string; line: number }[] = [];
  const code = blankComments(text);
  const pattern =
    /(?:^|[\s;}])(?:import|export)\s*(?:type\s+)?(?:[\w*{][^;"'`]*?from\s*)?["']([^"']+)["']|\b(?:import|require)\s*\(\s*["'`]([^"'`]+)["'`]/g;
  for (const match of code.matchAll(pattern)) {
    const specifier = match[1] ?? match[2] ?? "";
    const end = match.index + match[0].length;
    found.push({ specifier, line: code.slice(0, end).split("\n").length });
  }
  return found;
}

/** Comments as blanks, line ends kept, so that an example in a comment is no import. Strings stay as they are. */
function blankComments(text: string): string {
  return text.replace(/"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g, (part) =>
    part.startsWith("/") ? part.replace(/[^\n]/g, " ") : part,
  );
}

function checkImport(from: SourceFile, specifier: string, exists: (path: string) => boolean): string | undefined {
  if (!specifier.startsWith(".")) {
    const library = Object.keys(LIBRARY_OWNERS).find((name) => specifier === name || specifier.startsWith(`${name}/`));
    const alias = specifier === "child_process" ? "node:child_process" : library;
    const owners = alias === undefined ? undefined : LIBRARY_OWNERS[alias];
    if (owners === undefined || owners.some((owner) => from.path.startsWith(owner))) return undefined;
    return `imports ${specifier}, which belongs to ${owners.join(" and ")}`;
  }
  const target = normalize(join(dirname(from.path), specifier));
  if (target.startsWith("..")) return `imports ${specifier}, outside of src/`;
  if (!exists(target)) return `imports ${specifier}, which does not exist (write its extension)`;
  const here = placeOf(from.path);
  const there = placeOf(target);
  if (here === undefined) return "is not in the table of layers";
  if (there === undefined) return `imports ${target}, which is not in the table of layers`;
  if (here.unit === there.unit) return undefined;
  if (here.row === 0 && there.row === 0) return undefined;
  if (here.unit === "main.ts" && there.unit === "cli") return undefined;
  if (here.unit === GUEST_AGENT && there.row > 2) return `imports ${target}: the guest's agent sees rows 0 to 2 only`;
  if (there.unit === GUEST_AGENT && !GUEST_AGENT_IMPORTERS.includes(here.unit)) {
    return `imports ${target}: only the command that starts the agent may`;
  }
  if (there.row < here.row) return undefined;
  return `imports ${target}: row ${here.row} (${here.unit}) may not import row ${there.row} (${there.unit})`;
}

/** Faults of one file. `exists` tells whether a path relative to src/ is a file. */
export function checkFile(file: SourceFile, exists: (path: string) => boolean): LayerFault[] {
  const faults: LayerFault[] = [];
  const isTest = file.path.endsWith(".test.ts");
  if (placeOf(file.path) === undefined) {
    faults.push({ file: file.path, line: 1, reason: "is not in the table of layers" });
  }
  const lines = file.text.split("\n");
  const count = lines.length - 1;
  if (count > FILE_LINES_MAX && !UNBOUNDED.test(file.path)) {
    faults.push({ file: file.path, line: count, reason: `has ${count} lines, more than ${FILE_LINES_MAX}` });
  }
  for (const { specifier, line } of importsOf(file.text)) {
    // A test may look into what surrounds its subject: fixtures, other layers, libraries that only tests have.
    const reason = isTest ? undefined : checkImport(file, specifier, exists);
    if (reason !== undefined) faults.push({ file: file.path, line, reason });
  }
  if (!isTest && placeOf(file.path)?.unit !== "sys") {
    for (const [index, line] of blankComments(file.text).split("\n").entries()) {
      if (SYS_ONLY_CALLS.test(line)) {
        faults.push({ file: file.path, line: index + 1, reason: "starts a process; only src/sys does" });
      }
    }
  }
  return faults;
}

/** Faults of the whole tree below `src`. */
export async function checkLayers(src: string): Promise<LayerFault[]> {
  const faults: LayerFault[] = [];
  const paths = await Array.fromAsync(new Bun.Glob("**/*.ts").scan({ cwd: src }));
  for (const path of paths.sort()) {
    const text = await Bun.file(join(src, path)).text();
    faults.push(...checkFile({ path, text }, (target) => existsSync(join(src, target))));
  }
  return faults;
}
