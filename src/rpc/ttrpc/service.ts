/** What a ttRPC server serves: the handlers of one service, checked against its descriptor. */
import {
  create,
  type DescMethod,
  type DescService,
  type Message,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import type { GenService, GenServiceMethods } from "@bufbuild/protobuf/codegenv2";

/** One client's connection, as handlers see it. Usable as the key of a WeakMap for what belongs to this connection. */
export interface TtrpcConnection {
  /** For logs; chosen by whoever serves. */
  readonly id: number;
  /** Resolves when the connection has closed, whoever closed it; never rejects. */
  readonly closed: Promise<void>;
  readonly isClosed: boolean;
  /** Runs `hook` once, when the connection closes, or at once when it has. Returns how to take it back. */
  onClose(hook: () => void): () => void;
  close(): void;
}

export interface CallContext {
  /** Aborted when the connection closes or the caller's deadline passes. */
  readonly signal: AbortSignal;
  readonly connection: TtrpcConnection;
  /** Resolves when the answer to this call is with the kernel, or never will be: the moment to exit after an answer. */
  readonly answered: Promise<void>;
}

/** A method without a handler answers UNIMPLEMENTED. */
export type ServiceHandlers<Methods extends GenServiceMethods> = {
  readonly [Name in keyof Methods]?: (
    request: MessageShape<Methods[Name]["input"]>,
    context: CallContext,
  ) => MessageInitShape<Methods[Name]["output"]> | Promise<MessageInitShape<Methods[Name]["output"]>>;
};

/** `HandlersOf<typeof SandboxService>`: the handlers of a generated service, none missing with Required<…>. */
export type HandlersOf<Service> = Service extends GenService<infer Methods> ? ServiceHandlers<Methods> : never;

export interface RegisteredMethod {
  readonly method: DescMethod;
  readonly handle: (request: Message, context: CallContext) => Promise<Message>;
}

export interface RegisteredService {
  readonly typeName: string;
  /** By the name on the wire. */
  readonly methods: ReadonlyMap<string, RegisteredMethod>;
}

type ErasedResult = Record<string, unknown>;
type ErasedHandler = (request: Message, context: CallContext) => ErasedResult | Promise<ErasedResult>;

/** Handlers as serveTtrpc takes them; `this` is kept, so an instance of a class will do. */
export function registerService<Methods extends GenServiceMethods>(
  service: GenService<Methods>,
  handlers: ServiceHandlers<Methods>,
): RegisteredService {
  const descriptor: DescService = service;
  // A handler is only ever given the decoded input of its own method, so erasing the types here is sound.
  const erased = handlers as unknown as Readonly<Record<string, ErasedHandler | undefined>>;
  const methods = new Map<string, RegisteredMethod>();
  for (const method of descriptor.methods) {
    const handler = erased[method.localName];
    if (handler === undefined || method.methodKind !== "unary") continue;
    methods.set(method.name, {
      method,
      handle: async (request, context) => create(method.output, await handler.call(handlers, request, context)),
    });
  }
  return { typeName: descriptor.typeName, methods };
}
