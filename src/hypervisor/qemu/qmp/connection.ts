/** The QMP protocol on one connection: greeting, command ids, pending calls and events. It knows no command. */
import { HearthError, toHearthError } from "../../../errors.ts";
import { QMP_CALL_TIMEOUT_MS, QMP_CALLS_PENDING_MAX, QMP_LINE_BYTES_MAX } from "../../../limits.ts";
import { type Log, silentLog } from "../../../log.ts";
import type { Fd } from "../../../sys/fd.ts";
import type { FdPassingStream } from "../../../sys/fd-passing-stream.ts";
import { withDeadline } from "../../../util/wait.ts";
import { LineSplitter } from "./lines.ts";
import {
  formatQmpCommand,
  type JsonObject,
  parseQmpMessage,
  type QemuVersion,
  QmpError,
  type QmpMessage,
} from "./message.ts";

/** "negotiating" until qmp_capabilities was answered; no other command is possible before. */
export type QmpRunState =
  | { readonly kind: "greeting" }
  | { readonly kind: "negotiating"; readonly version: QemuVersion }
  | { readonly kind: "ready"; readonly version: QemuVersion }
  | { readonly kind: "closed"; readonly cause: HearthError };

export interface QmpEvent {
  readonly name: string;
  readonly data: unknown;
}

export interface QmpCallOptions {
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds. Default QMP_CALL_TIMEOUT_MS. */
  readonly timeoutMs?: number | undefined;
  /** Descriptors that travel with the command; they stay the caller's. */
  readonly fds?: readonly Fd[] | undefined;
}

interface PendingCall {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** One connection to a QMP server. Disposing closes it; QEMU goes on and accepts the next one. */
export class QmpConnection implements AsyncDisposable {
  readonly #stream: FdPassingStream;
  readonly #log: Log;
  readonly #lines = new LineSplitter(QMP_LINE_BYTES_MAX);
  readonly #pending = new Map<number, PendingCall>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #closed = Promise.withResolvers<HearthError>();
  readonly #greeted = Promise.withResolvers<QemuVersion>();
  #state: QmpRunState = { kind: "greeting" };
  #nextId = 1;

  private constructor(stream: FdPassingStream, log: Log) {
    this.#stream = stream;
    this.#log = log;
    // Nobody has to wait for the greeting: a connection that ends first has told its pending calls.
    this.#greeted.promise.catch(() => undefined);
  }

  /**
   * Takes over the stream, waits for the greeting and negotiates. On failure the stream is closed. QEMU serves one
   * client at a time: a second one waits for its greeting until the first has gone, hence the deadline.
   */
  static async open(
    stream: FdPassingStream,
    options: QmpCallOptions & { readonly log?: Log } = {},
  ): Promise<QmpConnection> {
    const connection = new QmpConnection(stream, options.log ?? silentLog);
    void connection.#readLoop();
    try {
      const timeoutMs = options.timeoutMs ?? QMP_CALL_TIMEOUT_MS;
      const greeted = connection.#greeted.promise;
      const version = await withDeadline("qmp greeting", greeted, { signal: options.signal, timeoutMs });
      connection.#state = { kind: "negotiating", version };
      await connection.#send("qmp_capabilities", {}, options);
      connection.#state = { kind: "ready", version };
      return connection;
    } catch (thrown) {
      connection.close(toHearthError(thrown, "open qmp connection", "unavailable"));
      throw thrown;
    }
  }

  get state(): QmpRunState {
    return this.#state;
  }

  /** QEMU's version, from its greeting. */
  get version(): QemuVersion {
    if (this.#state.kind === "ready" || this.#state.kind === "negotiating") return this.#state.version;
    throw new HearthError("failed-precondition", `get qemu version: qmp connection is ${this.#state.kind}`);
  }

  /** Resolves with the reason when the connection has ended, by whichever side; never rejects. */
  get closed(): Promise<HearthError> {
    return this.#closed.promise;
  }

  /**
   * Runs a command and gives back its foreign return value. Fails with a QmpError when QEMU refuses, a DeadlineError, the
   * signal's reason, or the cause of the connection's end. After a deadline the command may still take effect.
   */
  execute(command: string, args: JsonObject = {}, options: QmpCallOptions = {}): Promise<unknown> {
    if (this.#state.kind === "closed") return Promise.reject(this.#state.cause);
    if (this.#state.kind !== "ready") {
      return Promise.reject(new HearthError("internal", `qmp ${command}: connection is ${this.#state.kind}`));
    }
    return this.#send(command, args, options);
  }

  /** Calls `listener` with every event from now on; the returned function ends that. */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Idempotent. Pending calls fail with `cause`. */
  close(cause: HearthError = new HearthError("cancelled", "use qmp connection: closed")): void {
    if (this.#state.kind === "closed") return;
    this.#state = { kind: "closed", cause };
    this.#stream.close();
    for (const call of this.#pending.values()) call.reject(cause);
    this.#pending.clear();
    this.#listeners.clear();
    this.#greeted.reject(cause);
    this.#closed.resolve(cause);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  async #send(command: string, args: JsonObject, options: QmpCallOptions): Promise<unknown> {
    options.signal?.throwIfAborted();
    if (this.#pending.size >= QMP_CALLS_PENDING_MAX) {
      throw new HearthError("resource-exhausted", `qmp ${command}: ${this.#pending.size} calls are pending`);
    }
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#pending.set(id, { command, resolve, reject });
    this.#log.debug("qmp command", { command, id });
    const line = formatQmpCommand(command, id, args);
    const { fds = [] } = options;
    const written = fds.length > 0 ? this.#stream.writeWithFds(line, fds) : this.#stream.write(line);
    written.catch((thrown) => this.close(toHearthError(thrown, `qmp ${command}`, "unavailable")));
    try {
      const timeoutMs = options.timeoutMs ?? QMP_CALL_TIMEOUT_MS;
      return await withDeadline(`qmp ${command}`, promise, { signal: options.signal, timeoutMs });
    } finally {
      // An answer that comes after the deadline finds no call and is dropped.
      this.#pending.delete(id);
    }
  }

  async #readLoop(): Promise<void> {
    try {
      for (;;) {
        const chunk = await this.#stream.read();
        if (chunk === null) break;
        for (const line of this.#lines.push(chunk)) if (line.trim() !== "") this.#receive(parseQmpMessage(line));
      }
      this.close(new HearthError("unavailable", "use qmp connection: ended by qemu"));
    } catch (thrown) {
      this.close(toHearthError(thrown, "use qmp connection", "unavailable"));
    }
  }

  #receive(message: QmpMessage): void {
    switch (message.kind) {
      case "greeting":
        if (this.#state.kind !== "greeting") throw new HearthError("unavailable", "read qmp message: second greeting");
        this.#greeted.resolve(message.version);
        return;
      case "event":
        this.#log.debug("qmp event", { event: message.name });
        for (const listener of [...this.#listeners]) listener({ name: message.name, data: message.data });
        return;
      case "return":
        this.#pendingCall(message.id)?.resolve(message.value);
        return;
      case "error": {
        const call = this.#pendingCall(message.id);
        call?.reject(new QmpError(call.command, message.errorClass, message.text));
      }
    }
  }

  /** The call an answer belongs to; undefined when nobody waits for it any more. An answer to no command of ours is fatal. */
  #pendingCall(id: number | undefined): PendingCall | undefined {
    if (id === undefined || !Number.isInteger(id) || id < 1 || id >= this.#nextId) {
      throw new HearthError("unavailable", `read qmp message: answer to unknown command ${id ?? "without id"}`);
    }
    return this.#pending.get(id);
  }
}
