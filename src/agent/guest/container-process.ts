/** One process of a container that a client started: its pid, standard streams and end. */
import { HearthError } from "../../errors.ts";
import type { ChildReaper, ReapedStatus } from "../../sys/child-reaper.ts";
import { exitCodeOf } from "../../sys/process.ts";
import { pidStartTime, signalProcess } from "../../sys/process-identity.ts";
import { processStat } from "../../sys/process-stat.ts";
import { signalName } from "../../sys/signals.ts";
import type { PreservedStreams } from "./preserved-streams.ts";
import type { ProcessStdio } from "./stdio.ts";

export class ContainerProcess implements Disposable {
  /** For messages: "process E of container C". */
  readonly name: string;
  readonly pid: number;
  readonly stdio: ProcessStdio;
  readonly preserved: PreservedStreams;
  /** 0 to 255, 128 plus the signal for a killed process; never rejects. */
  readonly exitCode: Promise<number>;
  readonly #startTime: number | undefined;
  #ended = false;
  #lastCommand: string | undefined;

  /** Owns `streams`. `pid` is our child, or has been and was collected by `reaper`. */
  constructor(
    name: string,
    pid: number,
    streams: { readonly stdio: ProcessStdio; readonly preserved: PreservedStreams },
    reaper: ChildReaper,
  ) {
    this.name = name;
    this.pid = pid;
    this.stdio = streams.stdio;
    this.preserved = streams.preserved;
    this.#startTime = pidStartTime(pid);
    this.exitCode = reaper.wait(pid).then(
      (status) => this.#end(status),
      // Somebody else has reaped it: the status is lost, the end is not.
      () => this.#end({ kind: "exited", code: 255, command: "" }),
    );
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Name of the program that it runs, or has run last; undefined in the moment of its end. */
  get command(): string | undefined {
    return this.#ended ? this.#lastCommand : processStat(this.pid)?.command;
  }

  /** An ended process is "failed-precondition", in the words that engines look for. */
  signal(signal: number): void {
    if (!this.#ended && this.#startTime !== undefined) {
      if (signalProcess({ pid: this.pid, startTime: this.#startTime }, signal)) return;
    }
    const what = `send ${signalName(signal)} to ${this.name}`;
    throw new HearthError("failed-precondition", `${what}: os: process already finished`);
  }

  /** It has ended and all of its output has been read: only its exit code may still be asked for. */
  get finished(): boolean {
    return this.#ended && this.stdio.stdout.ended && (this.stdio.stderr?.ended ?? true) && this.preserved.ended;
  }

  [Symbol.dispose](): void {
    this.preserved[Symbol.dispose]();
    this.stdio[Symbol.dispose]();
  }

  #end(status: ReapedStatus): number {
    this.#ended = true;
    this.#lastCommand = status.command;
    this.stdio.processEnded();
    this.preserved.processEnded();
    return exitCodeOf(status);
  }
}
