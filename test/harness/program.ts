/** Runs a program to its end with bytes in and bytes out, in a constructed environment, within a bounded time. */
import { closeSync, openSync, readFileSync } from "node:fs";

export interface ProgramOptions {
  readonly stdin?: Uint8Array | string;
  /** The whole environment. Default: PATH alone. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** What the program sees as argv[0]. */
  readonly argv0?: string;
  /** Both outputs go to this file instead of pipes, for what leaves a container running that keeps them. */
  readonly outputPath?: string;
  /** Milliseconds until it is killed and the result is an error. Default 60 s. */
  readonly timeoutMs?: number;
}

export interface ProgramResult {
  /** The exit status, or 128 plus the signal. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly bytes: Uint8Array;
}

export const PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TIMEOUT_MS = 60_000;

/**
 * Both streams are read to their ends, as engines do: a daemon that keeps one open makes this time out, which is a
 * fault of the program under test.
 */
export async function runProgram(argv: readonly string[], options: ProgramOptions = {}): Promise<ProgramResult> {
  const timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
  const output = options.outputPath === undefined ? "pipe" : openSync(options.outputPath, "w");
  const child = Bun.spawn([...argv], {
    env: { PATH, ...options.env },
    cwd: options.cwd ?? "/",
    ...(options.argv0 === undefined ? {} : { argv0: options.argv0 }),
    stdin: options.stdin === undefined ? "ignore" : Buffer.from(options.stdin),
    stdout: output,
    stderr: output,
  });
  if (output !== "pipe") closeSync(output);
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    child.kill("SIGKILL");
    reject(new Error(`${argv.join(" ")}: not ended, or its output still open, after ${timeoutMs} ms`));
  }, timeoutMs);
  try {
    const streams = [child.stdout, child.stderr].map((stream) =>
      new Response(stream instanceof ReadableStream ? stream : null).bytes(),
    );
    const [status, out = new Uint8Array(), err] = await Promise.race([Promise.all([child.exited, ...streams]), late]);
    const bytes = options.outputPath === undefined ? out : readFileSync(options.outputPath);
    const decoder = new TextDecoder();
    return { status, bytes, stdout: decoder.decode(bytes), stderr: decoder.decode(err) };
  } finally {
    clearTimeout(timer);
  }
}

/** As `runProgram`, but any other end than status 0 is an error that shows what the program said. */
export async function mustRunProgram(argv: readonly string[], options: ProgramOptions = {}): Promise<ProgramResult> {
  const result = await runProgram(argv, options);
  if (result.status === 0) return result;
  throw new Error(`${argv.join(" ")}: exit status ${result.status}\n${result.stdout}${result.stderr}`);
}
