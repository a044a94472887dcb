/** Running a helper program to its end, with bounded time and bounded captured output. */
import { DeadlineError, HearthError } from "../errors.ts";
import { RUN_DRAIN_MS, RUN_OUTPUT_BYTES_MAX } from "../limits.ts";
import { sleep } from "../util/wait.ts";
import { type Fd, pipe } from "./fd.ts";
import { FdReader } from "./fd-reader.ts";
import { FdWriter } from "./fd-writer.ts";
import {
  type ChildProcess,
  describeExit,
  type ExitStatus,
  exitCodeOf,
  type SpawnOptions,
  spawnProcess,
  terminate,
} from "./process.ts";

export interface RunOptions extends Omit<SpawnOptions, "argv" | "stdio" | "detached"> {
  /** Standard input: a descriptor that the caller owns. Default: /dev/null. */
  readonly stdin?: Fd;
  /** Standard input as text, instead of `stdin`. A program that does not read it all is none the worse. */
  readonly input?: string;
  /** Milliseconds until the process is ended and a DeadlineError thrown. Default: none. */
  readonly timeoutMs?: number;
  /** Ends the process and rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Bytes kept of stdout and of stderr each; what follows is read and dropped. Default RUN_OUTPUT_BYTES_MAX. */
  readonly maxOutputBytes?: number;
}

export interface RunResult {
  readonly status: ExitStatus;
  /** 0 to 255; 128 plus the signal for a killed process. */
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  /** True when output was dropped. */
  readonly truncated: boolean;
}

/**
 * Runs a program to its end and returns whatever its exit status is. It is over when the program itself has ended: for
 * a daemon that it left behind with our pipes we wait RUN_DRAIN_MS and no longer. Ended by TERM, then KILL, on timeout.
 */
export async function runProcess(argv: readonly [string, ...string[]], options: RunOptions = {}): Promise<RunResult> {
  const { stdin, input, timeoutMs, signal, maxOutputBytes = RUN_OUTPUT_BYTES_MAX, ...spawnOptions } = options;
  signal?.throwIfAborted();
  const inward = input === undefined ? undefined : pipe({ nonBlockingWrite: true });
  using inWriter = inward === undefined ? undefined : new FdWriter(inward.writeEnd);
  const out = pipe({ nonBlockingRead: true });
  const err = pipe({ nonBlockingRead: true });
  using outReader = new FdReader(out.readEnd);
  using errReader = new FdReader(err.readEnd);
  let child: ChildProcess;
  try {
    const source = inward?.readEnd.fd ?? stdin ?? "ignore";
    child = spawnProcess({ ...spawnOptions, argv, stdio: [source, out.writeEnd.fd, err.writeEnd.fd] });
  } finally {
    inward?.readEnd.close();
    out.writeEnd.close();
    err.writeEnd.close();
  }
  if (inWriter !== undefined && input !== undefined) feed(inWriter, input);
  const stdout = new Capture(outReader, maxOutputBytes);
  const stderr = new Capture(errReader, maxOutputBytes);
  const status = await exitOrKill(child, argv[0], timeoutMs, signal);
  const drained = new AbortController();
  await Promise.race([Promise.all([stdout.done, stderr.done]), sleep(RUN_DRAIN_MS, drained.signal).catch(() => {})]);
  drained.abort();
  return {
    status,
    exitCode: exitCodeOf(status),
    stdout: stdout.text(),
    stderr: stderr.text(),
    truncated: stdout.truncated || stderr.truncated,
  };
}

/** As `runProcess`, but any end other than exit status 0 is an error that carries the end of stderr. Returns stdout. */
export async function runOrThrow(argv: readonly [string, ...string[]], options: RunOptions = {}): Promise<string> {
  const result = await runProcess(argv, options);
  if (result.exitCode === 0) return result.stdout;
  const said = result.stderr.trim().split("\n").slice(-3).join("; ");
  throw new HearthError("internal", `run ${argv[0]}: ${describeExit(result.status)}${said === "" ? "" : `: ${said}`}`, {
    facts: { argv: argv.join(" ") },
  });
}

async function exitOrKill(
  child: ChildProcess,
  program: string,
  timeoutMs: number | undefined,
  signal: AbortSignal | undefined,
): Promise<ExitStatus> {
  const stop = new AbortController();
  const onAbort = (): void => stop.abort(signal?.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  const timer =
    timeoutMs === undefined
      ? undefined
      : setTimeout(() => stop.abort(new DeadlineError(`end of ${program}`, timeoutMs)), timeoutMs);
  try {
    const stopped = new Promise<undefined>((resolve) => {
      stop.signal.addEventListener("abort", () => resolve(undefined), { once: true });
    });
    const status = await Promise.race([child.exited, stopped]);
    if (status !== undefined) return status;
    await terminate(child);
    throw stop.signal.reason;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

/** Writes all and closes. EPIPE means that the program did not want it; closing the writer under it that it has ended. */
function feed(writer: FdWriter, input: string): void {
  const done = (): void => writer.close();
  writer.write(new TextEncoder().encode(input)).then(done, done);
}

/** Reads to the end of the file, keeping the first bytes. */
class Capture {
  readonly done: Promise<void>;
  truncated = false;
  readonly #chunks: Uint8Array[] = [];
  #left: number;

  constructor(reader: FdReader, maxBytes: number) {
    this.#left = maxBytes;
    this.done = this.#readAll(reader);
    // Ends with an error when the reader is closed under it, which is how a left-over daemon is given up.
    this.done.catch(() => undefined);
  }

  text(): string {
    return new TextDecoder().decode(Buffer.concat(this.#chunks));
  }

  async #readAll(reader: FdReader): Promise<void> {
    for (let chunk = await reader.read(); chunk !== null; chunk = await reader.read()) {
      if (chunk.length > this.#left) this.truncated = true;
      const kept = chunk.subarray(0, this.#left);
      if (kept.length > 0) this.#chunks.push(kept);
      this.#left -= kept.length;
    }
  }
}
