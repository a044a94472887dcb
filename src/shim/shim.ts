/** Stands on the host for one process in the guest: carries its stdio, signals and window size, and ends as it ends. */
import { describeError } from "../errors.ts";
import { OutputStream } from "../gen/sandbox_table.ts";
import type { Log } from "../log.ts";
import type { CarriedFd } from "../sys/carried-fd.ts";
import type { Fd, OwnedFd } from "../sys/fd.ts";
import { FdReader } from "../sys/fd-reader.ts";
import { FdWriter } from "../sys/fd-writer.ts";
import { getWindowSize } from "../sys/pty.ts";
import { parseSignal, signalName } from "../sys/signals.ts";
import { carryFd } from "./carry-fd.ts";
import { PlainNewlines } from "./plain-newlines.ts";
import { isProcessGone, type ProcessTarget, pumpInput, pumpOutput } from "./pump.ts";

/** Exit status when the sandbox process has gone, and with it the process we stood for. */
export const EXIT_STATUS_LOST = 255;

export interface ShimStdio {
  /** Owned by the shim from now on; undefined where the caller has none open. */
  readonly stdin: OwnedFd | undefined;
  readonly stdout: OwnedFd | undefined;
  /** Undefined for a process with a terminal, which has one output. */
  readonly stderr: OwnedFd | undefined;
}

export interface ShimOptions {
  readonly target: ProcessTarget;
  readonly stdio: ShimStdio;
  /** What it has beside them, as its descriptors 3, 4, …; owned by the shim from now on. Default: nothing. */
  readonly preserved?: readonly CarriedFd[];
  /** The process has a terminal, and this descriptor is the host's side of it. */
  readonly terminal: Fd | undefined;
  /** The output of the process's terminal goes where no terminal is: lines end there as the process ended them. */
  readonly plainNewlines?: boolean;
  readonly log: Log;
}

/** What is sent on to the process when the shim itself gets it: who has only the pid means the process. */
const FORWARDED_SIGNALS = ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const;

/** A process that is being waited for and pumped. */
export interface RunningShim {
  /** Resolves when the sandbox process knows us as the owner; rejects when there is no such process. */
  readonly ready: Promise<void>;
  /** Resolves with the exit status, when all output was delivered; never rejects. */
  readonly exited: Promise<number>;
}

export function startShim(options: ShimOptions): RunningShim {
  const { target } = options;
  const { sandbox, containerId, execId } = target;
  const waiting = sandbox.waitProcess({ containerId, execId, owner: true });
  // Calls of one connection are taken in order: when this is answered, the one above has been taken.
  const ready = Promise.race([sandbox.info({}), waiting]).then(() => undefined);
  ready.catch(() => undefined);
  return { ready, exited: carry(options, waiting) };
}

async function carry(options: ShimOptions, waiting: Promise<{ readonly exitStatus: number }>): Promise<number> {
  const { target, stdio, log } = options;
  const stop = new AbortController();
  const stopForwarding = forwardSignals(options);
  const input =
    stdio.stdin === undefined
      ? target.sandbox.closeStdin({ containerId: target.containerId, execId: target.execId })
      : pumpInput(target, new FdReader(stdio.stdin), stop.signal);
  const writer = (fd: OwnedFd | undefined): FdWriter | undefined => (fd === undefined ? undefined : new FdWriter(fd));
  const filter = options.plainNewlines === true ? new PlainNewlines() : undefined;
  const outputs = [pumpOutput(target, OutputStream.STDOUT, writer(stdio.stdout), filter)];
  if (options.terminal === undefined) {
    outputs.push(pumpOutput(target, OutputStream.STDERR, writer(stdio.stderr)));
  }
  outputs.push(...(options.preserved ?? []).map((carried, index) => carryFd(target, 3 + index, carried, stop.signal)));
  input.catch((thrown) => logLoss(log, "standard input", thrown));
  for (const output of outputs) output.catch((thrown) => logLoss(log, "output", thrown));
  try {
    const { exitStatus } = await waiting;
    // The agent ends the streams of a process that has ended, whoever it left behind with them: nothing hangs here.
    await Promise.allSettled(outputs);
    return exitStatus;
  } catch (thrown) {
    log.error("process lost", { container: target.containerId, execId: target.execId, error: describeError(thrown) });
    return EXIT_STATUS_LOST;
  } finally {
    stop.abort();
    stopForwarding();
  }
}

function logLoss(log: Log, what: string, thrown: unknown): void {
  if (!isProcessGone(thrown)) log.warn(`${what} broke`, { error: describeError(thrown) });
}

/** Signals and window size, until the returned function is called. */
function forwardSignals({ target, terminal, log }: ShimOptions): () => void {
  const { sandbox, containerId, execId } = target;
  const handlers = new Map<NodeJS.Signals, () => void>();
  for (const name of FORWARDED_SIGNALS) {
    handlers.set(name, () => {
      const signal = parseSignal(name);
      sandbox.signalProcess({ containerId, execId, signal, all: false }).catch((thrown) => {
        if (!isProcessGone(thrown))
          log.warn("forward signal failed", { signal: signalName(signal), error: describeError(thrown) });
      });
    });
  }
  if (terminal !== undefined) {
    const resize = (): void => {
      try {
        const { rows, columns } = getWindowSize(terminal);
        if (rows === 0 || columns === 0) return;
        sandbox.resizeTerminal({ containerId, execId, rows, columns }).catch(() => undefined);
      } catch (thrown) {
        log.debug("read window size failed", { error: describeError(thrown) });
      }
    };
    handlers.set("SIGWINCH", resize);
    resize();
  }
  for (const [name, handler] of handlers) process.on(name, handler);
  return () => {
    for (const [name, handler] of handlers) process.off(name, handler);
  };
}
