/** Compiles the guest's agent into an executable of its own, so that nothing of the host's side is carried into the guest. */
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { run } from "./command.ts";

/** Relative to the repository. */
export const AGENT_ENTRY = "src/agent/guest/main.ts";

/** The executable reads neither bunfig.toml nor .env from where it is started. */
const COMPILE_FLAGS: readonly string[] = [
  "--compile",
  "--minify",
  "--bytecode",
  "--format=esm",
  "--no-compile-autoload-bunfig",
  "--no-compile-autoload-dotenv",
];

export async function compileAgent(repository: string, entry: string, executable: string): Promise<void> {
  await mkdir(dirname(executable), { recursive: true });
  await run([process.execPath, "build", ...COMPILE_FLAGS, entry, "--outfile", executable], { cwd: repository });
}
