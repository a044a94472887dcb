/** The answering side of ttRPC on one connection: unary calls run concurrently, a slow one never holds up another. */
import { DeadlineError, describeError, HearthError, toHearthError } from "../../errors.ts";
import { TTRPC_CALLS_IN_FLIGHT_MAX, TTRPC_MESSAGE_BYTES_MAX, TTRPC_UNWRITTEN_BYTES_MAX } from "../../limits.ts";
import { type Log, silentLog } from "../../log.ts";
import type { ByteStream } from "../../sys/byte-stream.ts";
import type { ServedMethod, ServedService } from "../service.ts";
import { type RpcStatus, statusOfError } from "../status.ts";
import { decodeRequestEnvelope, encodeResponseEnvelope, type RequestEnvelope } from "./envelope.ts";
import {
  encodeFramePieces,
  FLAG_REMOTE_OPEN,
  FRAME_DATA,
  FRAME_REQUEST,
  FRAME_RESPONSE,
  type Frame,
  FrameDecoder,
} from "./frame.ts";
import type { CallContext, TtrpcConnection } from "./service.ts";

export interface ServeOptions {
  /** Default: silent. */
  readonly log?: Log;
  /** Names the connection in the log. Default 0. */
  readonly connectionId?: number;
}

/**
 * Serves until the stream ends, then aborts what still runs; owns the stream. Nothing a client sends throws here: bad
 * calls are answered with a status, bytes that are no frames close the connection.
 */
export function serveTtrpc(
  stream: ByteStream,
  services: readonly ServedService<CallContext>[],
  options: ServeOptions = {},
): TtrpcConnection {
  const connection = new ServerConnection(options.connectionId ?? 0, stream, services, options.log ?? silentLog);
  connection.start();
  return connection;
}

/** Longest delay of setTimeout, in nanoseconds. */
const TIMER_NANO_MAX = 0x7fff_ffffn * 1_000_000n;

const EMPTY = new Uint8Array(0);

class ServerConnection implements TtrpcConnection {
  readonly id: number;
  readonly closed: Promise<void>;
  readonly #stream: ByteStream;
  readonly #services: ReadonlyMap<string, ServedService<CallContext>>;
  readonly #log: Log;
  readonly #hooks = new Set<() => void>();
  readonly #calls = new Map<number, AbortController>();
  readonly #resolveClosed: () => void;
  #lastStreamId = 0;
  #unwrittenBytes = 0;
  #drained: (() => void) | undefined;
  #isClosed = false;

  constructor(id: number, stream: ByteStream, services: readonly ServedService<CallContext>[], log: Log) {
    this.id = id;
    this.#stream = stream;
    this.#services = new Map(services.map((service) => [service.typeName, service]));
    this.#log = log;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#resolveClosed = resolve;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  onClose(hook: () => void): () => void {
    if (this.#isClosed) hook();
    else this.#hooks.add(hook);
    return () => this.#hooks.delete(hook);
  }

  close(): void {
    this.#end(undefined);
  }

  start(): void {
    this.#readLoop().then(
      () => this.#end(undefined),
      (thrown) => this.#end(thrown),
    );
  }

  async #readLoop(): Promise<void> {
    const decoder = new FrameDecoder();
    for (;;) {
      const chunk = await this.#stream.read();
      if (chunk === null || this.#isClosed) return;
      for (const frame of decoder.push(chunk)) {
        this.#accept(frame);
        await this.#room();
      }
    }
  }

  /** A client that does not read its answers is not read from either. */
  async #room(): Promise<void> {
    while (this.#unwrittenBytes > TTRPC_UNWRITTEN_BYTES_MAX && !this.#isClosed) {
      await new Promise<void>((resolve) => {
        this.#drained = resolve;
      });
    }
  }

  #accept(frame: Frame): void {
    const { streamId } = frame;
    switch (frame.type) {
      case FRAME_RESPONSE:
        throw new HearthError("invalid-argument", "ttrpc response from a client");
      case FRAME_DATA:
        // The stream it belongs to was refused when it was opened, or never was.
        if (streamId > this.#lastStreamId) this.#refuse(streamId, "unimplemented", "streams are not supported");
        return;
      case FRAME_REQUEST:
        this.#acceptRequest(frame);
    }
  }

  #acceptRequest({ streamId, flags, payload }: Frame): void {
    if (streamId % 2 !== 1 || streamId <= this.#lastStreamId) {
      this.#refuse(streamId, "invalid-argument", `stream id ${streamId} is not odd or not above the last one`);
      return;
    }
    this.#lastStreamId = streamId;
    if (payload === undefined) {
      this.#refuse(streamId, "resource-exhausted", `request is over the limit of ${TTRPC_MESSAGE_BYTES_MAX} bytes`);
    } else if ((flags & FLAG_REMOTE_OPEN) !== 0) {
      this.#refuse(streamId, "unimplemented", "streams are not supported");
    } else if (this.#calls.size >= TTRPC_CALLS_IN_FLIGHT_MAX) {
      this.#refuse(streamId, "resource-exhausted", `${this.#calls.size} calls in flight on one connection`);
    } else {
      this.#startCall(streamId, payload);
    }
  }

  #startCall(streamId: number, payload: Uint8Array): void {
    let request: RequestEnvelope;
    try {
      request = decodeRequestEnvelope(payload);
    } catch (thrown) {
      this.#answerError(streamId, toHearthError(thrown, "decode ttrpc request", "invalid-argument"));
      return;
    }
    const registered = this.#services.get(request.service)?.methods.get(request.method);
    if (registered === undefined) {
      this.#refuse(streamId, "unimplemented", `no method ${request.service}/${request.method}`);
      return;
    }
    void this.#runCall(streamId, registered, request);
  }

  async #runCall(streamId: number, registered: ServedMethod<CallContext>, request: RequestEnvelope): Promise<void> {
    const abort = new AbortController();
    const { promise: answered, resolve: markAnswered } = Promise.withResolvers<void>();
    const timer = deadlineTimer(request, abort);
    this.#calls.set(streamId, abort);
    const context: CallContext = { signal: abort.signal, connection: this, answered };
    try {
      await this.#answer(streamId, await registered.run(request.payload, context));
    } catch (thrown) {
      const method = `${request.service}/${request.method}`;
      this.#log.debug("call failed", { connection: this.id, method, error: describeError(thrown) });
      await this.#answerError(streamId, thrown);
    } finally {
      clearTimeout(timer);
      this.#calls.delete(streamId);
      markAnswered();
    }
  }

  #refuse(streamId: number, code: HearthError["code"], message: string): void {
    void this.#answerError(streamId, new HearthError(code, message));
  }

  async #answerError(streamId: number, thrown: unknown): Promise<void> {
    await this.#respond(streamId, statusOfError(thrown), EMPTY);
  }

  async #answer(streamId: number, payload: Uint8Array): Promise<void> {
    await this.#respond(streamId, { code: 0, message: "" }, payload);
  }

  /** Too large an answer rejects, for the caller to answer with that; a broken connection ends and does not reject. */
  async #respond(streamId: number, status: RpcStatus, payload: Uint8Array): Promise<void> {
    if (this.#isClosed) return;
    const pieces = encodeFramePieces(streamId, FRAME_RESPONSE, encodeResponseEnvelope(status, payload), payload);
    const bytes = pieces.reduce((sum, { length }) => sum + length, 0);
    this.#unwrittenBytes += bytes;
    try {
      await Promise.all(pieces.map((piece) => this.#stream.write(piece)));
    } catch (thrown) {
      this.#end(thrown);
    } finally {
      this.#unwrittenBytes -= bytes;
      this.#wakeReader();
    }
  }

  #wakeReader(): void {
    this.#drained?.();
    this.#drained = undefined;
  }

  #end(cause: unknown): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (cause !== undefined) {
      this.#log.debug("ttrpc connection ended", { connection: this.id, error: describeError(cause) });
    }
    this.#stream.close();
    this.#wakeReader();
    const gone = new HearthError("cancelled", "the caller's connection closed", { cause });
    for (const call of this.#calls.values()) call.abort(gone);
    for (const hook of this.#hooks) this.#runHook(hook);
    this.#hooks.clear();
    this.#resolveClosed();
  }

  #runHook(hook: () => void): void {
    try {
      hook();
    } catch (thrown) {
      this.#log.error("close hook failed", { connection: this.id, error: describeError(thrown) });
    }
  }
}

function deadlineTimer(request: RequestEnvelope, abort: AbortController): ReturnType<typeof setTimeout> | undefined {
  const nano = request.timeoutNano;
  if (nano <= 0n || nano > TIMER_NANO_MAX) return undefined;
  const timeoutMs = Number(nano) / 1e6;
  return setTimeout(() => {
    abort.abort(new DeadlineError(`handler of ${request.service}/${request.method}`, timeoutMs));
  }, timeoutMs);
}
