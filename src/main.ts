/** The entry of the one executable: finds out which program it is asked to be, and loads that one alone. */
import { basename } from "node:path";

const RUNTIME_NAME = "hearth-runtime";

/** Resolves with the exit status. */
async function main(name: string, args: readonly string[]): Promise<number> {
  const [command, ...rest] = args;
  if (name === RUNTIME_NAME) return await runtime(args, RUNTIME_NAME);
  switch (command) {
    case "runtime":
      return await runtime(rest, "hearth runtime");
    case "shim":
      return await (await import("./shim/main.ts")).shimMain(rest);
    case "oom-bait":
      return await (await import("./sandbox/oom-bait.ts")).oomBaitMain(rest);
    case "agent":
      return await (await import("./cli/agent.ts")).agentCommand(rest);
    case "sandbox":
      return await (await import("./cli/sandbox.ts")).sandboxCommand(rest);
    default:
      if (await isForRuntime(args)) return await runtime(args, "hearth runtime");
      return await (await import("./cli/main.ts")).hostMain(args);
  }
}

/** Engines may know it as a copy or link of any name: podman runs whatever file is named to it. */
async function isForRuntime(args: readonly string[]): Promise<boolean> {
  return (await import("./cli/runtime/main.ts")).namesRuntimeCommand(args);
}

async function runtime(args: readonly string[], program: string): Promise<number> {
  const { runtimeMain } = await import("./cli/runtime/main.ts");
  const acquireVm: Parameters<typeof runtimeMain>[2]["acquireVm"] = async (...request) =>
    (await import("./cli/runtime/acquire-vm.ts")).acquireVm(...request);
  return await runtimeMain(args, program, { acquireVm });
}

process.exit(await main(basename(process.argv0), process.argv.slice(2)));
