/**
 * The built executable with directories of a test's own. When the test is over nothing may be left of it; when it
 * failed, the logs of its VMs are shown.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { HearthConfig } from "../../src/config/config.ts";
import { DEFAULT_CONFIG } from "../../src/config/defaults.ts";
import { vmPaths } from "../../src/paths.ts";
import { removeTreeWithoutMounts, unmountTree } from "../../src/sys/mount.ts";
import { type ProcessIdentity, processExit, signalProcess } from "../../src/sys/process-identity.ts";
import { SIGKILL } from "../../src/sys/signals.ts";
import { type BundleOptions, makeBundle } from "./bundle.ts";
import { describeProcess, mountsBelow, processesUsing } from "./leftovers.ts";
import { type ProgramOptions, type ProgramResult, runProgram } from "./program.ts";
import { scratch } from "./scratch.ts";

const REPOSITORY = resolve(import.meta.dir, "../..");
/** The guest is unpacked once for all tests: it is the same in each, and its unpacking has tests of its own. */
const SHARED_DATA_DIR = join(REPOSITORY, "build/test-data");
/** A process that was told to end may take this long, an emulated guest's shutdown included. */
const EXIT_GRACE_MS = 5_000;
/** Lines of a log that are shown when a test failed. */
const LOG_TAIL_LINES = 60;

/** As the configuration file, every key optional. */
export type ConfigOverrides = { readonly [Section in keyof HearthConfig]?: Partial<HearthConfig[Section]> };

export interface HearthOptions {
  readonly config?: ConfigOverrides;
  /** Of the executable. Default: dist/hearth. */
  readonly executable?: string;
}

export interface Hearth {
  /** Removed afterwards. */
  readonly dir: string;
  readonly runDir: string;
  readonly dataDir: string;
  readonly configPath: string;
  readonly executable: string;
  /** The link that engines are pointed at. */
  readonly runtimePath: string;
  /** The pool's socket. */
  readonly endpoint: string;
  /** What an engine's environment needs so that the runtime finds this configuration. */
  readonly env: Readonly<Record<string, string>>;
  /** `hearth ARGS`. */
  run(args: readonly string[], options?: ProgramOptions): Promise<ProgramResult>;
  /** `hearth-runtime ARGS`. */
  runtime(args: readonly string[], options?: ProgramOptions): Promise<ProgramResult>;
  /** A file of this configuration with changes; returns its path. */
  configWith(changes: ConfigOverrides): string;
  /** A new bundle of its own directory. */
  bundle(options: BundleOptions): Promise<string>;
}

/** For tests that share one: `close` removes everything and fails for what was left; the caller calls it once. */
export interface OpenHearth {
  readonly hearth: Hearth;
  /** The ends of the logs of every VM there is, for a test that failed. */
  describe(): string;
  close(): Promise<void>;
}

export function openHearth(options: HearthOptions = {}): OpenHearth {
  const directory = scratch();
  const hearth = makeHearth(directory.dir, options);
  return {
    hearth,
    describe: () => describeVms(hearth.runDir),
    close: async () => {
      const left = await cleanUp(directory.dir, hearth.runDir);
      if (left.length > 0) throw new Error(`left behind:\n${left.map((line) => `  ${line}`).join("\n")}`);
    },
  };
}

/** Runs `body`; afterwards fails for anything left, and always removes it. */
export async function withHearth(options: HearthOptions, body: (hearth: Hearth) => Promise<void>): Promise<void> {
  const opened = openHearth(options);
  try {
    await body(opened.hearth);
  } catch (thrown) {
    process.stderr.write(opened.describe());
    // The first failure is the one to read.
    await opened.close().catch((left: unknown) => process.stderr.write(`${left}\n`));
    throw thrown;
  }
  await opened.close();
}

function makeHearth(dir: string, options: HearthOptions): Hearth {
  const runDir = join(dir, "run");
  const endpoint = join(runDir, "cache.sock");
  const configPath = join(dir, "config.toml");
  const executable = options.executable ?? join(REPOSITORY, "dist/hearth");
  const runtimePath = options.executable === undefined ? join(REPOSITORY, "dist/hearth-runtime") : executable;
  const dataDir = options.config?.runtime?.data_dir ?? SHARED_DATA_DIR;
  mkdirSync(dataDir, { recursive: true });
  const configText = (changes: ConfigOverrides = {}): string =>
    configToml({
      hypervisor: { ...options.config?.hypervisor, ...changes.hypervisor },
      factory: { vm_cache_endpoint: endpoint, ...options.config?.factory, ...changes.factory },
      runtime: {
        run_dir: runDir,
        log_level: "debug",
        ...options.config?.runtime,
        data_dir: dataDir,
        ...changes.runtime,
      },
    });
  writeFileSync(configPath, configText());
  let configs = 0;
  const env = { HEARTH_CONFIG: configPath };
  const withEnv = (given: ProgramOptions = {}): ProgramOptions => ({ ...given, env: { ...env, ...given.env } });
  let bundles = 0;
  return {
    dir,
    runDir,
    dataDir,
    configPath,
    executable,
    runtimePath,
    endpoint,
    env,
    run: (args, given) => runProgram([executable, ...args], withEnv(given)),
    runtime: (args, given) => runProgram([runtimePath, ...args], { ...withEnv(given), argv0: "hearth-runtime" }),
    configWith: (changes) => {
      const path = join(dir, `config-${++configs}.toml`);
      writeFileSync(path, configText(changes));
      return path;
    },
    bundle: (given) => makeBundle(join(dir, `bundle-${++bundles}`), given),
  };
}

/** A configuration file; sections have the names of the file, where `hypervisor` is `hypervisor.qemu`. */
export function configToml(config: ConfigOverrides): string {
  const lines: string[] = [];
  for (const section of Object.keys(DEFAULT_CONFIG)) {
    const entries = Object.entries(Object.entries(config).find(([name]) => name === section)?.[1] ?? {});
    if (entries.length === 0) continue;
    lines.push(`[${section === "hypervisor" ? "hypervisor.qemu" : section}]`);
    for (const [key, value] of entries) lines.push(`${key} = ${toml(value)}`);
  }
  return `${lines.join("\n")}\n`;
}

/** A JSON string, number or boolean is the same in TOML; a table is written inline. */
function toml(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(toml).join(", ")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  return `{ ${Object.entries(value)
    .map(([key, entry]) => `${key} = ${toml(entry)}`)
    .join(", ")} }`;
}

/** The ends of the logs of every VM there is. */
function describeVms(runDir: string): string {
  const vms = join(runDir, "vm");
  if (!existsSync(vms)) return "";
  return readdirSync(vms)
    .map((id) => {
      const { consoleLog, qemuLog, sandboxLog } = vmPaths(runDir, id);
      return [sandboxLog, qemuLog, consoleLog].map(tail).join("");
    })
    .join("");
}

function tail(path: string): string {
  if (!existsSync(path)) return "";
  const lines = readFileSync(path, "utf8").trimEnd().split("\n");
  return `--- ${path}, last lines\n${lines.slice(-LOG_TAIL_LINES).join("\n")}\n`;
}

async function cleanUp(dir: string, runDir: string): Promise<string[]> {
  const ended = (processes: readonly ProcessIdentity[]): Promise<unknown> => {
    const timeout = AbortSignal.timeout(EXIT_GRACE_MS);
    return Promise.allSettled(processes.map((one) => processExit(one, timeout)));
  };
  await ended(processesUsing(dir));
  const processes = processesUsing(dir);
  const left = processes.map(describeProcess);
  for (const one of processes) signalProcess(one, SIGKILL);
  await ended(processes);
  left.push(...mountsBelow(dir).map((path) => `mount ${path}`));
  for (const kind of ["vm", "containers"]) {
    const path = join(runDir, kind);
    if (existsSync(path)) left.push(...readdirSync(path).map((name) => `directory ${join(path, name)}`));
  }
  for (const mount of mountsBelow(dir)) await unmountTree(mount);
  removeTreeWithoutMounts(dir);
  return left;
}
