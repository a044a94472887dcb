/** QMP over a stream: JSON lines, commands by id, events to listeners. Source: QEMU docs/interop/qmp-spec. */
import { DeadlineError, HearthError } from "../../../errors.ts";
import { QMP_CALL_TIMEOUT_MS, QMP_LINE_BYTES_MAX } from "../../../limits.ts";
import type { Fd } from "../../../sys/fd.ts";
import type { FdPassingStream } from "../../../sys/fd-passing-stream.ts";
import type { QmpCommands } from "./commands.ts";

export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

interface PendingCall {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: HearthError) => void;
}

/** Answers of QEMU are foreign: commands.ts says what each is parsed to. */
export class QmpClient implements AsyncDisposable {
  readonly #stream: FdPassingStream;
  readonly #pending = new Map<number, PendingCall>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #greeted = Promise.withResolvers<void>();
  #nextId = 1;
  #failure: HearthError | undefined;
  readonly closed: Promise<void>;

  private constructor(stream: FdPassingStream) {
    this.#stream = stream;
    this.#greeted.promise.catch(() => {});
    this.closed = this.#readLoop().then(
      () => this.#fail(new HearthError("unavailable", "qmp connection closed")),
      (cause: unknown) => this.#fail(new HearthError("unavailable", "qmp connection broke", { cause })),
    );
  }

  /** Waits for the greeting and negotiates capabilities. Owns the stream. */
  static async open(stream: FdPassingStream, signal: AbortSignal): Promise<QmpClient> {
    const client = new QmpClient(stream);
    try {
      await abortable(client.#greeted.promise, signal);
      await client.execute("qmp_capabilities", {}, { signal });
      return client;
    } catch (error) {
      stream.close();
      throw error;
    }
  }

  /** Fails with the command's error class, with the cause of a broken connection, or with DeadlineError. */
  async execute<Name extends keyof QmpCommands>(
    command: Name,
    args: QmpCommands[Name]["arguments"],
    options: {
      readonly signal?: AbortSignal | undefined;
      readonly timeoutMs?: number;
      readonly fds?: readonly Fd[];
    } = {},
  ): Promise<unknown> {
    if (this.#failure !== undefined) throw this.#failure;
    const id = this.#nextId++;
    const answer = Promise.withResolvers<unknown>();
    this.#pending.set(id, answer);
    const line = new TextEncoder().encode(`${JSON.stringify({ execute: command, arguments: args, id })}\r\n`);
    const timeoutMs = options.timeoutMs ?? QMP_CALL_TIMEOUT_MS;
    const deadline = AbortSignal.timeout(timeoutMs);
    const signal = options.signal === undefined ? deadline : AbortSignal.any([deadline, options.signal]);
    try {
      await (options.fds === undefined ? this.#stream.write(line) : this.#stream.writeWithFds(line, options.fds));
      return await abortable(answer.promise, signal);
    } catch (error) {
      if (deadline.aborted) throw new DeadlineError(`qmp ${command}`, timeoutMs);
      throw error;
    } finally {
      this.#pending.delete(id);
    }
  }

  /** Calls `listener` for every event from now on; returns how to stop. */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The next event that `matches`. Call it before the command that brings the event about. */
  async waitEvent(matches: (event: QmpEvent) => boolean, signal: AbortSignal): Promise<QmpEvent> {
    if (this.#failure !== undefined) throw this.#failure;
    const found = Promise.withResolvers<QmpEvent>();
    const stop = this.onEvent((event) => {
      if (matches(event)) found.resolve(event);
    });
    void this.closed.then(() => found.reject(this.#failure));
    try {
      return await abortable(found.promise, signal);
    } finally {
      stop();
    }
  }

  async #readLoop(): Promise<void> {
    const decoder = new TextDecoder();
    let buffered = "";
    for (let chunk = await this.#stream.read(); chunk !== null; chunk = await this.#stream.read()) {
      buffered += decoder.decode(chunk, { stream: true });
      const lines = buffered.split("\n");
      buffered = lines.pop() ?? "";
      if (buffered.length > QMP_LINE_BYTES_MAX) throw new HearthError("resource-exhausted", "qmp line is too long");
      for (const line of lines) if (line.trim() !== "") this.#accept(line);
    }
  }

  #accept(line: string): void {
    const message: unknown = JSON.parse(line);
    if (!isObject(message)) throw new HearthError("invalid-argument", "qmp message is no object");
    if (isObject(message["QMP"])) {
      this.#greeted.resolve();
      return;
    }
    if (typeof message["event"] === "string") {
      const event = { event: message["event"], data: isObject(message["data"]) ? message["data"] : {} };
      for (const listener of [...this.#listeners]) listener(event);
      return;
    }
    const call = typeof message["id"] === "number" ? this.#pending.get(message["id"]) : undefined;
    if (call === undefined) return;
    if (isObject(message["error"])) {
      const { class: errorClass, desc } = message["error"];
      call.reject(new HearthError("internal", `qmp: ${String(desc)}`, { facts: { class: String(errorClass) } }));
    } else call.resolve(message["return"]);
  }

  #fail(error: HearthError): void {
    this.#failure = error;
    this.#greeted.reject(error);
    for (const call of this.#pending.values()) call.reject(error);
    this.#pending.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stream.close();
    await this.closed;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

async function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  const onAbort = () => aborted.reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
