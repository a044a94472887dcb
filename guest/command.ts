/** Runs the host tools of the guest build and turns a failing one into an error with its own words. */
import { HearthError } from "../src/errors.ts";

export interface CommandOptions {
  readonly cwd?: string;
  /** Bytes given on standard input; default none. */
  readonly input?: Uint8Array;
  /** Added to the constructed environment (PATH, C locale, UTC). */
  readonly env?: Readonly<Record<string, string>>;
}

/** Standard output of the command. Errors: "unavailable" when the tool is missing, "internal" when it fails. */
export async function run(argv: readonly string[], options: CommandOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
  const tool = argv[0] ?? "";
  if (Bun.which(tool) === null) {
    throw new HearthError("unavailable", `find ${tool}: not installed`, {
      hint: "install the Debian packages of scripts/packages.txt",
    });
  }
  const child = Bun.spawn([...argv], {
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    stdin: options.input ?? "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C.UTF-8", TZ: "UTC", ...options.env },
  });
  const [output, errors, status] = await Promise.all([
    new Response(child.stdout).arrayBuffer(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (status !== 0) {
    throw new HearthError("internal", `run ${argv.slice(0, 3).join(" ")}: exit status ${status}`, {
      facts: { argv: argv.join(" "), status },
      cause: errors.trim() === "" ? undefined : new Error(errors.trim().split("\n").slice(-5).join("; ")),
    });
  }
  return new Uint8Array(output);
}

export async function runText(argv: readonly string[], options: CommandOptions = {}): Promise<string> {
  return new TextDecoder().decode(await run(argv, options));
}
