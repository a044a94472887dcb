/** `hearth runtime`: runc's command line. Global flags, then a command, each in a file of its own, loaded when named. */
import { HearthError } from "../../errors.ts";
import { didYouMean } from "../../util/nearest.ts";
import { parseFlags } from "../flags.ts";
import { writeOut } from "../output.ts";
import { errorLine, exitCodeOf, printError } from "../report-error.ts";
import { UsageError } from "../usage-error.ts";
import type { RuntimeCommand } from "./command.ts";
import { createContext, type GlobalValues, type RuntimeContext, type RuntimeDependencies } from "./context.ts";
import { GLOBAL_FLAGS } from "./globals.ts";

interface CommandEntry {
  readonly summary: string;
  readonly load: () => Promise<{ readonly command: RuntimeCommand }>;
}

export const RUNTIME_COMMANDS: Readonly<Record<string, CommandEntry>> = {
  create: { summary: "create a container from a bundle, in a VM", load: () => import("./create.ts") },
  start: { summary: "start the process of a created container", load: () => import("./start.ts") },
  state: { summary: "print the state of a container", load: () => import("./state.ts") },
  kill: { summary: "send a signal to a container", load: () => import("./kill.ts") },
  delete: { summary: "delete a container and what it holds", load: () => import("./delete.ts") },
  run: { summary: "create and start a container, and wait for its end", load: () => import("./run.ts") },
  exec: { summary: "run another process in a container", load: () => import("./exec.ts") },
  list: { summary: "list containers", load: () => import("./list.ts") },
  ps: { summary: "list the processes of a container", load: () => import("./ps.ts") },
  pause: { summary: "suspend all processes of a container", load: () => import("./pause.ts") },
  resume: { summary: "resume a paused container", load: () => import("./resume.ts") },
  update: { summary: "change the resource limits of a container", load: () => import("./update.ts") },
  events: { summary: "print resource usage of a container", load: () => import("./events.ts") },
  spec: { summary: "write a starter config.json", load: () => import("./spec.ts") },
  features: { summary: "print what this runtime supports", load: () => import("./features.ts") },
  checkpoint: { summary: "not supported", load: () => import("./unsupported.ts") },
  restore: { summary: "not supported", load: () => import("./unsupported.ts") },
};

/**
 * Their standard error is the container's or the process's too: only the error that ends them belongs there, unless it is
 * a terminal, where somebody reads the warnings.
 */
const CONTAINER_STDERR_COMMANDS: ReadonlySet<string> = new Set(["create", "run", "exec"]);

/** Whether it is a command line of the runtime: flags that it knows, then one of its commands. */
export function namesRuntimeCommand(args: readonly string[]): boolean {
  try {
    return Object.hasOwn(RUNTIME_COMMANDS, parseFlags(GLOBAL_FLAGS, args).rest[0] ?? "");
  } catch (thrown) {
    if (thrown instanceof UsageError) return false;
    throw thrown;
  }
}

/** Runs one command line and resolves with the exit status; reports its own errors. */
export async function runtimeMain(
  args: readonly string[],
  program: string,
  dependencies: RuntimeDependencies,
): Promise<number> {
  let globals: GlobalValues;
  let rest: readonly string[];
  let context: RuntimeContext;
  try {
    ({ flags: globals, rest } = parseFlags(GLOBAL_FLAGS, args));
    if (globals.version) return await printVersion();
    if (globals.help || rest.length === 0 || rest[0] === "help") return await printUsage(program);
    const ownStderr = !CONTAINER_STDERR_COMMANDS.has(rest[0] ?? "") || (await import("node:tty")).isatty(2);
    context = createContext(globals, dependencies, { ownStderr });
  } catch (thrown) {
    printError(program, thrown);
    return exitCodeOf(thrown);
  }
  let command: RuntimeCommand | undefined;
  try {
    const [name = "", ...commandArgs] = rest;
    context.log.debug("command begins", { command: name });
    command = await loadCommand(name);
    if (asksForHelp(command, commandArgs)) return await printUsage(program, name, command);
    return await command.run(context, commandArgs);
  } catch (thrown) {
    report(context, program, command, thrown);
    return thrown instanceof UsageError ? exitCodeOf(thrown) : (command?.failureExitCode ?? exitCodeOf(thrown));
  }
}

async function loadCommand(name: string): Promise<RuntimeCommand> {
  const entry = Object.hasOwn(RUNTIME_COMMANDS, name) ? RUNTIME_COMMANDS[name] : undefined;
  if (entry === undefined) {
    const near = didYouMean(name, Object.keys(RUNTIME_COMMANDS));
    // The status and the phrase are runc's.
    const message = `unknown command ${JSON.stringify(name)}${near}: No help topic for '${name}'`;
    throw new HearthError("invalid-argument", message, { exitCode: 3 });
  }
  return (await entry.load()).command;
}

/** `--help` among the command's own flags, and not as a flag's value. */
function asksForHelp(command: RuntimeCommand, args: readonly string[]): boolean {
  if (!args.includes("--help") && !args.includes("-h")) return false;
  const table = { ...command.flags, help: { type: "boolean", short: "h", help: "" } } as const;
  return parseFlags(table, args, command.flagsEnd).flags.help;
}

/** The error goes to the log; containerd shows its last one to the user. With a log file, people see it on stderr too. */
function report(context: RuntimeContext, program: string, command: RuntimeCommand | undefined, thrown: unknown): void {
  const prefix = command?.failurePrefix;
  const line = `${prefix === undefined ? "" : `${prefix}: `}${errorLine(thrown)}`;
  context.log.error(line);
  if (context.logFd !== undefined) printError(program, new Error(line));
}

async function printVersion(): Promise<number> {
  const { versionText } = await import("../../version.ts");
  await writeOut(versionText("hearth-runtime"));
  return 0;
}

async function printUsage(program: string, name?: string, command?: RuntimeCommand): Promise<number> {
  const { commandUsage, programUsage } = await import("../usage.ts");
  const text =
    name === undefined || command === undefined
      ? await programUsage(program, GLOBAL_FLAGS, RUNTIME_COMMANDS)
      : await commandUsage(`${program} ${name}`, RUNTIME_COMMANDS[name]?.summary ?? "", command);
  await writeOut(text);
  return 0;
}
