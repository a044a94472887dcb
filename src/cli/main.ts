/** The commands of a host's operator: `hearth check`, `hearth env`, and the pool. Reports its own errors. */
import { HearthError } from "../errors.ts";
import { didYouMean } from "../util/nearest.ts";
import { versionText } from "../version.ts";
import { type FlagTable, type FlagValues, parseFlags } from "./flags.ts";
import { writeOut } from "./output.ts";
import { exitCodeOf, printError } from "./report-error.ts";

export const HOST_FLAGS = {
  config: { type: "string", value: "FILE", help: "configuration (default: $HEARTH_CONFIG or /etc/hearth/config.toml)" },
  version: { type: "boolean", short: "v", help: "print the version" },
  help: { type: "boolean", short: "h", help: "print this text" },
} as const satisfies FlagTable;

export interface HostContext {
  /** Value of `--config`. */
  readonly configPath: string | undefined;
}

export interface HostCommand {
  readonly flags: FlagTable;
  readonly positionals: string;
  /** Resolves with the exit status. */
  run(context: HostContext, args: readonly string[]): Promise<number>;
}

/** Ties the flag table to the types that `run` sees. */
export function defineHostCommand<const T extends FlagTable>(definition: {
  readonly flags: T;
  readonly positionals: string;
  run(context: HostContext, flags: FlagValues<T>, positionals: readonly string[]): Promise<number>;
}): HostCommand {
  return {
    ...definition,
    async run(context, args) {
      const { flags, rest } = parseFlags(definition.flags, args);
      return await definition.run(context, flags, rest);
    },
  };
}

interface HostEntry {
  readonly summary: string;
  readonly load?: () => Promise<{ readonly command: HostCommand }>;
}

/** Those without `load` are dispatched by main.ts, and named here for the usage. */
const HOST_COMMANDS: Readonly<Record<string, HostEntry>> = {
  runtime: { summary: "OCI runtime with runc's command line; also as hearth-runtime" },
  vmcache: { summary: "serve, status, stop: the pool of VMs kept warm", load: () => import("./vmcache.ts") },
  template: {
    summary: "init, status, destroy: saved VMs that others are cloned of",
    load: () => import("./template.ts"),
  },
  check: { summary: "is this host ready to run VMs?", load: () => import("./check.ts") },
  env: { summary: "print version, host and configuration", load: () => import("./env.ts") },
  sandbox: { summary: "internal: owns one VM" },
  shim: { summary: "internal: stands for one container or exec process" },
  "oom-bait": { summary: "internal: is killed on the host when a process in the guest was" },
  agent: { summary: "internal: runs inside the guest" },
};

export async function hostMain(args: readonly string[]): Promise<number> {
  let program = "hearth";
  try {
    const { flags, rest } = parseFlags(HOST_FLAGS, args);
    if (flags.version) {
      await writeOut(versionText(program));
      return 0;
    }
    const [name = "", ...commandArgs] = rest;
    if (flags.help || name === "" || name === "help") return await printUsage(program);
    const { command, summary } = await loadCommand(name);
    program = `hearth ${name}`;
    if (asksForHelp(command, commandArgs)) {
      const { commandUsage } = await import("./usage.ts");
      await writeOut(await commandUsage(program, summary, command));
      return 0;
    }
    return await command.run({ configPath: flags.config }, commandArgs);
  } catch (thrown) {
    printError(program, thrown);
    return exitCodeOf(thrown);
  }
}

async function loadCommand(name: string): Promise<{ command: HostCommand; summary: string }> {
  const entry = Object.hasOwn(HOST_COMMANDS, name) ? HOST_COMMANDS[name] : undefined;
  if (entry?.load === undefined) {
    const near = didYouMean(name, Object.keys(HOST_COMMANDS));
    throw new HearthError("invalid-argument", `unknown command ${JSON.stringify(name)}${near}`);
  }
  return { command: (await entry.load()).command, summary: entry.summary };
}

function asksForHelp(command: HostCommand, args: readonly string[]): boolean {
  if (!args.includes("--help") && !args.includes("-h")) return false;
  const table = { ...command.flags, help: { type: "boolean", short: "h", help: "" } } as const;
  return parseFlags(table, args).flags.help;
}

async function printUsage(program: string): Promise<number> {
  const { programUsage } = await import("./usage.ts");
  await writeOut(await programUsage(program, HOST_FLAGS, HOST_COMMANDS));
  return 0;
}
