/** The calling side of ttRPC: many calls at once over one byte stream, each with a deadline and a way to give it up. */
import type { GenService } from "@bufbuild/protobuf/codegenv2";
import { DeadlineError, HearthError, toHearthError } from "../../errors.ts";
import { TTRPC_CALLS_IN_FLIGHT_MAX } from "../../limits.ts";
import type { ByteStream } from "../../sys/byte-stream.ts";
import { type CalledMethod, methodName, type ServiceClient, type UnaryTransport } from "../call.ts";
import { cancellationError, RemoteError, STATUS_OK } from "../status.ts";
import { decodeResponseEnvelope, encodeRequestEnvelope } from "./envelope.ts";
import { encodeFramePieces, FRAME_REQUEST, FRAME_RESPONSE, type Frame, FrameDecoder, STREAM_ID_MAX } from "./frame.ts";

export interface CallOptions {
  /** Gives the call up; it rejects with the reason when that is a HearthError, else with "cancelled". The server is not told. */
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds until a DeadlineError; the server learns of it too. Default: none. */
  readonly timeoutMs?: number | undefined;
}

/** `ClientOf<typeof SandboxService>`: the typed client of a generated service. */
export type ClientOf<Service> = Service extends GenService<infer Methods> ? ServiceClient<Methods, CallOptions> : never;

interface PendingCall {
  readonly method: string;
  /** Undefined after the caller gave up: the answer is awaited only because the server still works on it. */
  settle: ((outcome: { payload: Uint8Array } | { error: HearthError }) => void) | undefined;
}

/** The longest delay setTimeout takes; anything longer is as good as none. */
const TIMER_MS_MAX = 0x7fff_ffff;
const NANOSECONDS_PER_MS = 1e6;

/**
 * Owns the stream from construction on. When it ends, every pending and later call rejects with the true cause.
 * A call that the server refuses rejects with RemoteError, one that the transport lost with "unavailable".
 */
export class TtrpcClient implements UnaryTransport<CallOptions>, AsyncDisposable {
  readonly #stream: ByteStream;
  readonly #pending = new Map<number, PendingCall>();
  readonly #firstStreamId: number;
  #nextStreamId: number;
  #failure: HearthError | undefined;
  /** Resolves with the cause when no further call is possible; never rejects. */
  readonly closed: Promise<HearthError>;

  /**
   * `firstStreamId`, odd: answers with lower ones are dropped, as those to another client of a channel that knows no
   * connections, which this one has the place of. Default 1.
   */
  constructor(stream: ByteStream, firstStreamId = 1) {
    this.#stream = stream;
    this.#firstStreamId = firstStreamId;
    this.#nextStreamId = firstStreamId;
    this.closed = this.#readLoop();
  }

  /** Ends the connection; pending calls reject with "cancelled". Idempotent. */
  close(): void {
    this.#fail(new HearthError("cancelled", "ttrpc connection closed by this side"));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed;
  }

  /** Calls in flight, those given up but not yet answered included. */
  get inFlight(): number {
    return this.#pending.size;
  }

  /** One call, serialized; for generated clients. `payload` must not change until the answer has come. */
  call(method: CalledMethod, payload: Uint8Array, options: CallOptions = {}): Promise<Uint8Array> {
    const name = methodName(method);
    const { signal, timeoutMs } = options;
    if (signal?.aborted === true) return Promise.reject(cancellationError(name, signal.reason));
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    const streamId = this.#nextStreamId;
    try {
      this.#checkRoom(name, streamId);
      const envelope = encodeRequest(method, payload, timeoutMs);
      for (const piece of encodeFramePieces(streamId, FRAME_REQUEST, envelope, payload)) {
        this.#stream.write(piece).catch((thrown) => this.#fail(brokenConnection("write to", thrown)));
      }
    } catch (thrown) {
      return Promise.reject(toHearthError(thrown, `call ${name}`));
    }
    this.#nextStreamId += 2;
    const call: PendingCall = { method: name, settle: undefined };
    const giveUp = (error: HearthError): void => {
      call.settle?.({ error });
    };
    const onAbort = (): void => giveUp(cancellationError(name, signal?.reason));
    const timer =
      timeoutMs === undefined || timeoutMs > TIMER_MS_MAX
        ? undefined
        : setTimeout(() => giveUp(new DeadlineError(`answer of ${name}`, timeoutMs)), timeoutMs);
    signal?.addEventListener("abort", onAbort, { once: true });
    call.settle = (outcome): void => {
      call.settle = undefined;
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      if ("error" in outcome) reject(outcome.error);
      else resolve(outcome.payload);
    };
    this.#pending.set(streamId, call);
    return promise;
  }

  #checkRoom(name: string, streamId: number): void {
    if (this.#pending.size >= TTRPC_CALLS_IN_FLIGHT_MAX) {
      throw new HearthError(
        "resource-exhausted",
        `call ${name}: ${this.#pending.size} calls in flight on one connection`,
      );
    }
    if (streamId > STREAM_ID_MAX) throw new HearthError("unavailable", `call ${name}: connection is out of stream ids`);
  }

  async #readLoop(): Promise<HearthError> {
    const decoder = new FrameDecoder();
    try {
      for (;;) {
        const chunk = await this.#stream.read();
        if (chunk === null) break;
        for (const frame of decoder.push(chunk)) this.#accept(frame);
        if (this.#failure !== undefined) return this.#failure;
      }
      const how = decoder.atBoundary ? "closed by the other side" : "closed by the other side within a frame";
      return this.#fail(new HearthError("unavailable", `ttrpc connection ${how}`));
    } catch (thrown) {
      return this.#fail(brokenConnection("read from", thrown));
    }
  }

  #accept(frame: Frame): void {
    if (frame.type !== FRAME_RESPONSE) {
      throw new HearthError("invalid-argument", `ttrpc message type ${frame.type} from a server`);
    }
    if (frame.streamId < this.#firstStreamId) return;
    const call = this.#pending.get(frame.streamId);
    if (call === undefined) throw new HearthError("invalid-argument", `ttrpc answer on idle stream ${frame.streamId}`);
    this.#pending.delete(frame.streamId);
    // Given up: nobody waits for what is in it.
    if (call.settle === undefined) return;
    call.settle(readAnswer(call.method, frame.payload));
  }

  /** Ends everything with the first cause; returns that. */
  #fail(cause: HearthError): HearthError {
    if (this.#failure !== undefined) return this.#failure;
    this.#failure = cause;
    this.#stream.close();
    const calls = [...this.#pending.values()];
    this.#pending.clear();
    for (const call of calls) call.settle?.({ error: cause });
    return cause;
  }
}

function encodeRequest(method: CalledMethod, payload: Uint8Array, timeoutMs: number | undefined): Uint8Array {
  const timeoutNano =
    timeoutMs === undefined || timeoutMs > TIMER_MS_MAX ? 0n : BigInt(Math.ceil(timeoutMs * NANOSECONDS_PER_MS));
  return encodeRequestEnvelope({ service: method.parent.typeName, method: method.name, payload, timeoutNano });
}

function readAnswer(method: string, payload: Uint8Array | undefined): { payload: Uint8Array } | { error: HearthError } {
  if (payload === undefined) {
    return { error: new HearthError("resource-exhausted", `answer of ${method} is over the message limit`) };
  }
  try {
    const response = decodeResponseEnvelope(payload);
    const status = response.status;
    if (status === undefined || status.code === STATUS_OK) return { payload: response.payload };
    return { error: new RemoteError(status.code, status.message, method) };
  } catch (thrown) {
    return { error: toHearthError(thrown, `decode answer of ${method}`) };
  }
}

/** Whatever broke it, the system or a peer that speaks something else, the server is "unavailable". */
function brokenConnection(what: string, thrown: unknown): HearthError {
  return new HearthError("unavailable", `${what} ttrpc connection`, { cause: thrown });
}
