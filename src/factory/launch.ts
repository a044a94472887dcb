/**
 * Starts a sandbox process: hands it its launch on standard input, follows its report on descriptor 3, and ends
 * everything it made when it does not get ready.
 */
import { mkdirSync, readSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { DeadlineError, describeError, HearthError, toHearthError } from "../errors.ts";
import { OPEN_FILES_MIN, SANDBOX_END_GRACE_MS, SANDBOX_STDERR_TAIL_BYTES, SANDBOX_STEP_MARGIN_MS } from "../limits.ts";
import { type Log, silentLog } from "../log.ts";
import { O_CREAT, O_EXCL, O_RDWR, type OwnedFd, openFd, openFilesLimit, pipe } from "../sys/fd.ts";
import { FdReader } from "../sys/fd-reader.ts";
import { FdWriter } from "../sys/fd-writer.ts";
import { type ChildProcess, describeExit, selfExec, spawnProcess, terminate } from "../sys/process.ts";
import { collectVm } from "../vm/collect.ts";
import type { TemplateFiles } from "../vm/template-store.ts";
import type { VmConfig } from "../vm/vm-config.ts";
import type { SandboxLaunch, SandboxReady } from "./base-factory.ts";
import { ReportReader, type SandboxReport } from "./launch-report.ts";

export interface LaunchOptions {
  readonly runDir: string;
  readonly mode: SandboxLaunch["mode"];
  /** Milliseconds, 1 to LEASE_MS_MAX; counts in mode "leased". */
  readonly leaseMs: number;
  readonly logLevel: SandboxLaunch["logLevel"];
  readonly log?: Log;
  /** Called with each step the sandbox process begins. */
  readonly onStep?: (vmId: string, step: string) => void;
  /** Program and arguments of the sandbox process. Default: this executable's `sandbox`. */
  readonly argv?: readonly [string, ...string[]];
  /** Files of the VM to clone, or to make. */
  readonly template?: TemplateFiles;
  /** Once it aborts, a process that is to end gets no time to do so. */
  readonly kill?: AbortSignal | undefined;
  /** Test only: the step that fails. */
  readonly failAt?: string | undefined;
}

export interface LaunchedSandbox {
  readonly vmId: string;
  readonly token: string;
  readonly ready: SandboxReady;
}

/** Bytes of randomness in a token that proves the right to adopt a VM. */
const TOKEN_BYTES = 32;
const VM_ID_BYTES = 8;

/** Lower-case hex, two characters a byte. */
export function randomHex(bytes: number): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(bytes))).toString("hex");
}

export function newToken(): string {
  return randomHex(TOKEN_BYTES);
}

/**
 * Resolves once the VM is ready; the process is then detached and its own master. A step that takes longer than the
 * boot time is a DeadlineError naming it; the signal's abort rejects with its reason. Nothing is left behind on failure.
 */
export async function launchSandbox(
  options: LaunchOptions,
  config: VmConfig,
  signal: AbortSignal,
): Promise<LaunchedSandbox> {
  signal.throwIfAborted();
  checkOpenFiles(openFilesLimit());
  const launch: SandboxLaunch = {
    vmId: randomHex(VM_ID_BYTES),
    runDir: options.runDir,
    config,
    mode: options.mode,
    token: newToken(),
    leaseMs: options.leaseMs,
    logLevel: options.logLevel,
    ...(options.template === undefined ? {} : { template: options.template }),
    ...(options.failAt === undefined ? {} : { failAt: options.failAt }),
  };
  const log = (options.log ?? silentLog).with({ vm: launch.vmId });
  using stderr = openStderr(launch);
  const { child, report, stdin } = spawnSandbox(options, stderr);
  try {
    using _reader = report;
    feedLaunch(stdin, launch, log);
    const ready = await followReport(report, child, launch, options, signal);
    child.unref();
    return { vmId: launch.vmId, token: launch.token, ready };
  } catch (thrown) {
    const said = readTail(stderr);
    await endFailed(child, launch, options.kill, log);
    throw said === "" ? thrown : withStderr(thrown, said);
  }
}

/** With fewer something waits for ever on a file that it could not open. */
function checkOpenFiles(limit: number): void {
  if (limit >= OPEN_FILES_MIN) return;
  throw new HearthError(
    "resource-exhausted",
    `start sandbox process: ${limit} open files are allowed, it needs ${OPEN_FILES_MIN}`,
    {
      hint: "raise the limit of open files (ulimit -n) of what starts the runtime",
    },
  );
}

interface SpawnedSandbox {
  readonly child: ChildProcess;
  readonly report: FdReader;
  readonly stdin: FdWriter;
}

function spawnSandbox(options: LaunchOptions, stderr: OwnedFd): SpawnedSandbox {
  const input = pipe({ nonBlockingWrite: true });
  const output = pipe({ nonBlockingRead: true });
  const report = new FdReader(output.readEnd);
  const stdin = new FdWriter(input.writeEnd);
  try {
    const child = spawnProcess({
      argv: options.argv ?? selfExec(["sandbox"]),
      stdio: [input.readEnd.fd, "ignore", stderr.fd, output.writeEnd.fd],
      detached: true,
    });
    return { child, report, stdin };
  } catch (thrown) {
    report.close();
    stdin.close();
    throw toHearthError(thrown, "start sandbox process");
  } finally {
    input.readEnd.close();
    output.writeEnd.close();
  }
}

/** A file without a name: a process that dies before it has its log says why there, and nobody must read it meanwhile. */
function openStderr(launch: SandboxLaunch): OwnedFd {
  try {
    mkdirSync(launch.runDir, { recursive: true, mode: 0o700 });
    const path = join(launch.runDir, `.${launch.vmId}.stderr`);
    const fd = openFd(path, O_RDWR | O_CREAT | O_EXCL);
    unlinkSync(path);
    return fd;
  } catch (thrown) {
    throw toHearthError(thrown, `start sandbox process of ${launch.vmId}`);
  }
}

function readTail(stderr: OwnedFd): string {
  const buffer = new Uint8Array(SANDBOX_STDERR_TAIL_BYTES);
  let tail: Uint8Array<ArrayBufferLike> = new Uint8Array(0);
  for (let at = 0; ; ) {
    const count = readSync(stderr.fd, buffer, 0, buffer.length, at);
    if (count === 0) break;
    tail = Buffer.concat([tail, buffer.subarray(0, count)]).subarray(-SANDBOX_STDERR_TAIL_BYTES);
    at += count;
  }
  return new TextDecoder().decode(tail).trim();
}

/** The process that fails to read it says so in its report, or ends; both are seen there. */
function feedLaunch(stdin: FdWriter, launch: SandboxLaunch, log: Log): void {
  stdin
    .write(new TextEncoder().encode(`${JSON.stringify(launch)}\n`))
    .catch((thrown: unknown) => log.debug("launch not read", { error: describeError(thrown) }))
    .finally(() => stdin.close());
}

async function followReport(
  report: FdReader,
  child: ChildProcess,
  launch: SandboxLaunch,
  options: LaunchOptions,
  signal: AbortSignal,
): Promise<SandboxReady> {
  let step = "first report";
  const stepTimeoutMs = launch.config.bootTimeoutMs + SANDBOX_STEP_MARGIN_MS;
  const reader = new ReportReader(report);
  for (;;) {
    const line = await nextReport(reader, `${step} of sandbox ${launch.vmId}`, stepTimeoutMs, signal);
    if (line === undefined) throw await endedEarly(child, step, launch, options.kill);
    switch (line.kind) {
      case "step":
        step = line.step;
        options.onStep?.(launch.vmId, step);
        break;
      case "ready":
        return line.ready;
      case "error":
        throw new HearthError(line.code, `start sandbox ${launch.vmId}: ${line.message}`, {
          facts: { vm: launch.vmId, step },
          ...(line.hint === undefined ? {} : { hint: line.hint }),
        });
    }
  }
}

/** Undefined at the end of the report. */
async function nextReport(
  reader: ReportReader,
  step: string,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<SandboxReport | undefined> {
  const deadline = new AbortController();
  const timer = setTimeout(() => deadline.abort(new DeadlineError(step, timeoutMs)), timeoutMs);
  try {
    return await reader.next(AbortSignal.any([signal, deadline.signal]));
  } finally {
    clearTimeout(timer);
  }
}

/** The report ended before it said how it went: the process died, or is about to. */
async function endedEarly(
  child: ChildProcess,
  step: string,
  launch: SandboxLaunch,
  kill: AbortSignal | undefined,
): Promise<HearthError> {
  const status = await terminate(child, { graceMs: SANDBOX_END_GRACE_MS, kill });
  return new HearthError(
    "internal",
    `start sandbox ${launch.vmId}: process ended at ${step} with ${describeExit(status)}`,
    { facts: { vm: launch.vmId, step } },
  );
}

/** Ends the process, which ends its VM, and then whatever it could not end itself. */
async function endFailed(
  child: ChildProcess,
  launch: SandboxLaunch,
  kill: AbortSignal | undefined,
  log: Log,
): Promise<void> {
  await terminate(child, { graceMs: SANDBOX_END_GRACE_MS, kill });
  try {
    await collectVm(launch.runDir, launch.vmId, log);
  } catch (thrown) {
    log.error("clean up after failed launch", { error: describeError(thrown) });
  }
}

function withStderr(thrown: unknown, said: string): HearthError {
  const error = toHearthError(thrown, "start sandbox process");
  if (error instanceof DeadlineError) return error;
  return new HearthError(error.code, `${error.message}: ${said.split("\n").slice(-3).join(" / ")}`, {
    facts: error.facts,
    cause: error.cause,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
  });
}
