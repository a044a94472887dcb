/** Progress of the project's own commands: one line a step with its time, and child processes whose output is shown. */
import { join, resolve } from "node:path";
import { describeError, HearthError } from "../src/errors.ts";

export const REPOSITORY = resolve(import.meta.dir, "..");

/** A command of the project that cannot go on; its message is all that is printed. */
export class StepError extends Error {}

/** Runs one step and says how it ended: `build    1.2 s  executable: built`. The work returns that last word. */
export async function step(command: string, name: string, work: () => Promise<string> | string): Promise<void> {
  const started = performance.now();
  const say = (outcome: string) => {
    const seconds = ((performance.now() - started) / 1000).toFixed(1).padStart(6);
    process.stderr.write(`${command} ${seconds} s  ${name}: ${outcome}\n`);
  };
  try {
    say(await work());
  } catch (thrown) {
    say("failed");
    throw thrown;
  }
}

/** PATH with the tools of node_modules before the system's. */
export function toolEnvironment(): Record<string, string> {
  const inherited = Object.entries(process.env).filter((entry): entry is [string, string] => entry[1] !== undefined);
  const path = `${join(REPOSITORY, "node_modules/.bin")}:${process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin"}`;
  return { ...Object.fromEntries(inherited), PATH: path, NO_COLOR: "1" };
}

export interface ToolResult {
  readonly status: number;
  readonly stdout: string;
  /** Standard output and error, as they came. */
  readonly output: string;
}

/** Runs a tool to its end and returns what it said. Does not fail by itself. */
export async function runTool(argv: readonly string[], cwd: string = REPOSITORY): Promise<ToolResult> {
  const child = Bun.spawn([...argv], { cwd, env: toolEnvironment(), stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { status, stdout, output: stdout + stderr };
}

/** Standard output of a tool that must succeed. */
export async function mustRun(argv: readonly string[], cwd: string = REPOSITORY): Promise<string> {
  const { status, stdout, output } = await runTool(argv, cwd);
  if (status !== 0) throw new StepError(`${argv.slice(0, 3).join(" ")}: exit status ${status}\n${output.trim()}`);
  return stdout;
}

/** Ends the process with status 1 and the message when the command fails in a foreseen way. */
export async function runCommand(main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (thrown) {
    if (!(thrown instanceof StepError || thrown instanceof HearthError)) throw thrown;
    const hint = thrown instanceof HearthError && thrown.hint !== undefined ? `\nhint: ${thrown.hint}` : "";
    process.stderr.write(`${describeError(thrown)}${hint}\n`);
    process.exitCode = 1;
  }
}
