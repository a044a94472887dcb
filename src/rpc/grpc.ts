/**
 * gRPC over unix sockets: the only owner of grpc-js, which costs 10 ms to load. Import this module dynamically, and only
 * when the pool is in use.
 */
import { Duplex } from "node:stream";
import type { DescMethod } from "@bufbuild/protobuf";
import type { GenService, GenServiceMethods } from "@bufbuild/protobuf/codegenv2";
import * as grpc from "@grpc/grpc-js";
import { DeadlineError, describeError, HearthError } from "../errors.ts";
import {
  GRPC_CONNECTION_AGE_GRACE_MS,
  GRPC_CONNECTION_AGE_MS,
  GRPC_CONNECTION_IDLE_MS,
  GRPC_CONNECTIONS_MAX,
  GRPC_MESSAGE_BYTES_MAX,
  GRPC_STREAMS_PER_CONNECTION_MAX,
} from "../limits.ts";
import { type Log, silentLog } from "../log.ts";
import type { ByteStream } from "../sys/byte-stream.ts";
import { methodName, type ServiceClient, type UnaryTransport } from "./call.ts";
import { createServiceClient } from "./client.ts";
import { type RegisteredMethod, type RegisteredService, registerHandlers, type ServiceHandlers } from "./service.ts";
import { cancellationError, RemoteError, statusOfError } from "./status.ts";

export type Metadata = Readonly<Record<string, string>>;

export interface GrpcCallContext {
  /** Aborted when the client cancels, its deadline passes, or its connection is lost. */
  readonly signal: AbortSignal;
  /** Text entries; of a repeated key the first. */
  readonly metadata: Metadata;
}

export interface GrpcServerOptions {
  /** Default: silent. */
  readonly log?: Log;
  /** Milliseconds until a connection takes no new calls, and from then until it is cut. Default: those of limits.ts. */
  readonly connectionAgeMs?: { readonly max: number; readonly grace: number };
}

/** Serves connections that somebody else accepted. */
export interface GrpcServer extends AsyncDisposable {
  /** Takes the ownership of the stream. Over GRPC_CONNECTIONS_MAX it is closed at once. */
  accept(stream: ByteStream): void;
  /** No new calls; resolves when those in flight are answered, or were cut off after `graceMs`. Idempotent. */
  shutdown(graceMs: number): Promise<void>;
}

type RawCall = grpc.ServerUnaryCall<Uint8Array, Uint8Array>;
type RawDefinition = grpc.MethodDefinition<Uint8Array, Uint8Array>;

const asBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function rawDefinition(method: DescMethod): RawDefinition {
  return {
    path: `/${methodName(method)}`,
    requestStream: false,
    responseStream: false,
    requestSerialize: asBuffer,
    requestDeserialize: (bytes) => bytes,
    responseSerialize: asBuffer,
    responseDeserialize: (bytes) => bytes,
  };
}

/** Handlers as createGrpcServer takes them. */
export function registerGrpcService<Methods extends GenServiceMethods>(
  service: GenService<Methods>,
  handlers: ServiceHandlers<Methods, GrpcCallContext>,
): RegisteredService<GrpcCallContext> {
  return registerHandlers(service, handlers);
}

export function createGrpcServer(
  services: readonly RegisteredService<GrpcCallContext>[],
  options: GrpcServerOptions = {},
): GrpcServer {
  const log = options.log ?? silentLog;
  const server = new grpc.Server({
    "grpc.max_receive_message_length": GRPC_MESSAGE_BYTES_MAX,
    "grpc.max_send_message_length": GRPC_MESSAGE_BYTES_MAX,
    "grpc.max_concurrent_streams": GRPC_STREAMS_PER_CONNECTION_MAX,
    "grpc.max_connection_idle_ms": GRPC_CONNECTION_IDLE_MS,
    "grpc.max_connection_age_ms": options.connectionAgeMs?.max ?? GRPC_CONNECTION_AGE_MS,
    "grpc.max_connection_age_grace_ms": options.connectionAgeMs?.grace ?? GRPC_CONNECTION_AGE_GRACE_MS,
  });
  const calls = new CallsInFlight();
  for (const service of services) addService(server, service, calls, log);
  return new InjectedServer(server, calls, log);
}

/** Counts calls, so that a shutdown can wait for them: grpc-js's own graceful shutdown cuts them off under Bun. */
class CallsInFlight {
  #count = 0;
  #draining = false;
  readonly #none = Promise.withResolvers<void>();

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#draining) throw new HearthError("unavailable", "the server is shutting down");
    this.#count += 1;
    try {
      return await work();
    } finally {
      this.#count -= 1;
      if (this.#draining && this.#count === 0) this.#none.resolve();
    }
  }

  /** Refuses new calls; resolves when none is left. */
  drain(): Promise<void> {
    this.#draining = true;
    if (this.#count === 0) this.#none.resolve();
    return this.#none.promise;
  }
}

function addService(
  server: grpc.Server,
  service: RegisteredService<GrpcCallContext>,
  calls: CallsInFlight,
  log: Log,
): void {
  const definition: Record<string, RawDefinition> = {};
  const implementation: Record<string, grpc.handleUnaryCall<Uint8Array, Uint8Array>> = {};
  for (const [name, registered] of service.methods) {
    definition[name] = rawDefinition(registered.method);
    implementation[name] = (call, respond) => {
      calls
        .run(() => runCall(registered, call))
        .then(
          (answer) => respond(null, answer),
          (thrown) => {
            const { code, message } = statusOfError(thrown);
            log.debug("call failed", { method: methodName(registered.method), error: message });
            respond({ code, details: message });
          },
        );
    };
  }
  server.addService(definition, implementation);
}

async function runCall(registered: RegisteredMethod<GrpcCallContext>, call: RawCall): Promise<Uint8Array> {
  const abort = new AbortController();
  const onCancelled = (): void => {
    abort.abort(new HearthError("cancelled", "the caller gave up or its connection closed"));
  };
  call.on("cancelled", onCancelled);
  if (call.cancelled) onCancelled();
  return await registered.run(call.request, { signal: abort.signal, metadata: textMetadata(call.metadata) });
}

function textMetadata(metadata: grpc.Metadata): Metadata {
  const entries = Object.entries(metadata.getMap());
  return Object.fromEntries(entries.filter((entry): entry is [string, string] => typeof entry[1] === "string"));
}

class InjectedServer implements GrpcServer {
  readonly #server: grpc.Server;
  readonly #injector: ReturnType<grpc.Server["createConnectionInjector"]>;
  readonly #calls: CallsInFlight;
  readonly #log: Log;
  readonly #streams = new Set<ByteStream>();
  #shutdown: Promise<void> | undefined;

  constructor(server: grpc.Server, calls: CallsInFlight, log: Log) {
    this.#server = server;
    this.#calls = calls;
    this.#injector = server.createConnectionInjector(grpc.ServerCredentials.createInsecure());
    this.#log = log;
  }

  accept(stream: ByteStream): void {
    if (this.#shutdown !== undefined || this.#streams.size >= GRPC_CONNECTIONS_MAX) {
      this.#log.warn("connection refused", { connections: this.#streams.size });
      stream.close();
      return;
    }
    this.#streams.add(stream);
    void stream.closed.then(() => this.#streams.delete(stream));
    const socket = new StreamDuplex(stream);
    socket.on("error", (error) => {
      this.#log.debug("connection broke", { error: describeError(error) });
    });
    this.#injector.injectConnection(socket);
  }

  shutdown(graceMs: number): Promise<void> {
    this.#shutdown ??= this.#end(graceMs);
    return this.#shutdown;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown(0);
  }

  async #end(graceMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, graceMs);
    await Promise.race([this.#calls.drain(), promise]);
    clearTimeout(timer);
    // The last answers are on their way through http2 to the socket: it writes them within these turns.
    for (let turn = 0; turn < FLUSH_TURNS; turn++) await new Promise(setImmediate);
    this.#server.forceShutdown();
    this.#injector.destroy();
    for (const stream of this.#streams) stream.close();
  }
}

/** Turns of the event loop from an answer to its last byte at the socket: measured 1, with room to spare. */
const FLUSH_TURNS = 5;

/** A byte stream as node's duplex streams, which http2 wants. Destroying it closes the stream. */
class StreamDuplex extends Duplex {
  readonly #stream: ByteStream;

  constructor(stream: ByteStream) {
    super({ allowHalfOpen: false });
    this.#stream = stream;
    void stream.closed.then(() => this.destroy());
  }

  override _read(): void {
    this.#stream.read().then(
      (chunk) => this.push(chunk),
      (thrown) => this.destroy(asError(thrown)),
    );
  }

  override _write(chunk: Uint8Array, _encoding: string, done: (error?: Error | null) => void): void {
    this.#stream.write(chunk).then(() => done(), done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#stream.endWrite();
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#stream.close();
    done(error);
  }
}

function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}

export interface GrpcCallOptions {
  /** Gives the call up and tells the server. */
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds until a DeadlineError, connecting included; the server learns of it too. Default: none. */
  readonly timeoutMs?: number | undefined;
  readonly metadata?: Metadata | undefined;
}

/** `GrpcClientOf<typeof CacheService>`: the typed client of a generated service. */
export type GrpcClientOf<Service> =
  Service extends GenService<infer Methods> ? ServiceClient<Methods, GrpcCallOptions> : never;

/**
 * A channel to one unix socket; connects with the first call. A server's status rejects as RemoteError; so does a
 * connection that cannot be made or breaks, with "unavailable", because grpc-js does not tell them apart.
 */
export class GrpcClient implements UnaryTransport<GrpcCallOptions>, AsyncDisposable {
  readonly #client: grpc.Client;
  readonly #path: string;

  constructor(socketPath: string) {
    this.#path = socketPath;
    this.#client = new grpc.Client(`unix:${socketPath}`, grpc.credentials.createInsecure(), {
      "grpc.max_receive_message_length": GRPC_MESSAGE_BYTES_MAX,
      "grpc.max_send_message_length": GRPC_MESSAGE_BYTES_MAX,
      "grpc.use_local_subchannel_pool": 1,
      "grpc.enable_retries": 0,
      "grpc.enable_channelz": 0,
      "grpc.service_config_disable_resolution": 1,
    });
  }

  call(method: DescMethod, payload: Uint8Array, options: GrpcCallOptions = {}): Promise<Uint8Array> {
    const name = methodName(method);
    const { signal, timeoutMs } = options;
    if (signal?.aborted === true) return Promise.reject(cancellationError(name, signal.reason));
    const metadata = new grpc.Metadata();
    for (const [key, value] of Object.entries(options.metadata ?? {})) metadata.set(key, value);
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    const definition = rawDefinition(method);
    const call = this.#client.makeUnaryRequest(
      definition.path,
      definition.requestSerialize,
      definition.responseDeserialize,
      payload,
      metadata,
      timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs },
      (error, answer) => {
        signal?.removeEventListener("abort", onAbort);
        if (error !== null) reject(this.#callError(name, error, options));
        else if (answer === undefined) reject(new HearthError("internal", `call ${name}: no answer and no error`));
        else resolve(answer);
      },
    );
    const onAbort = (): void => call.cancel();
    signal?.addEventListener("abort", onAbort, { once: true });
    return promise;
  }

  /** Calls in flight go on; the channel closes after them. */
  close(): void {
    this.#client.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #callError(name: string, error: grpc.ServiceError, options: GrpcCallOptions): HearthError {
    const { signal, timeoutMs } = options;
    if (error.code === grpc.status.CANCELLED && signal?.aborted === true) return cancellationError(name, signal.reason);
    if (error.code === grpc.status.DEADLINE_EXCEEDED && timeoutMs !== undefined) {
      return new DeadlineError(`answer of ${name} on ${this.#path}`, timeoutMs, { cause: error });
    }
    return new RemoteError(error.code, error.details, name);
  }
}

/** Typed functions for the service's methods. The client keeps the ownership of the channel. */
export function createGrpcClient<Methods extends GenServiceMethods>(
  service: GenService<Methods>,
  client: GrpcClient,
): ServiceClient<Methods, GrpcCallOptions> {
  return createServiceClient(service, client);
}
