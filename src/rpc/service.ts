/** What an RPC server serves, whatever the transport: the handlers of one service, checked against its descriptor. */
import {
  create,
  type DescMethod,
  type DescService,
  fromBinary,
  type Message,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import type { GenService, GenServiceMethods } from "@bufbuild/protobuf/codegenv2";
import { toHearthError } from "../errors.ts";

/** A method without a handler answers UNIMPLEMENTED. */
export type ServiceHandlers<Methods extends GenServiceMethods, Context> = {
  readonly [Name in keyof Methods]?: (
    request: MessageShape<Methods[Name]["input"]>,
    context: Context,
  ) => MessageInitShape<Methods[Name]["output"]> | Promise<MessageInitShape<Methods[Name]["output"]>>;
};

export interface ServedMethod<Context> {
  /** From serialized request to serialized answer; a request that does not decode is "invalid-argument". */
  readonly run: (payload: Uint8Array, context: Context) => Promise<Uint8Array>;
}

/** What a server needs to know of a service, however its messages are encoded. */
export interface ServedService<Context> {
  readonly typeName: string;
  /** By the name on the wire. */
  readonly methods: ReadonlyMap<string, ServedMethod<Context>>;
}

export interface RegisteredMethod<Context> extends ServedMethod<Context> {
  readonly method: DescMethod;
}

export interface RegisteredService<Context> extends ServedService<Context> {
  readonly methods: ReadonlyMap<string, RegisteredMethod<Context>>;
}

type ErasedResult = Record<string, unknown>;
type ErasedHandler<Context> = (request: Message, context: Context) => ErasedResult | Promise<ErasedResult>;

/** Handlers as servers take them; `this` is kept, so an instance of a class will do. */
export function registerHandlers<Methods extends GenServiceMethods, Context>(
  service: GenService<Methods>,
  handlers: ServiceHandlers<Methods, Context>,
): RegisteredService<Context> {
  const descriptor: DescService = service;
  // A handler is only ever given the decoded input of its own method, so erasing the types here is sound.
  const erased = handlers as unknown as Readonly<Record<string, ErasedHandler<Context> | undefined>>;
  const methods = new Map<string, RegisteredMethod<Context>>();
  for (const method of descriptor.methods) {
    const handler = erased[method.localName];
    if (handler === undefined || method.methodKind !== "unary") continue;
    const run = async (payload: Uint8Array, context: Context): Promise<Uint8Array> => {
      const request = decodeRequest(method, payload);
      return toBinary(method.output, create(method.output, await handler.call(handlers, request, context)));
    };
    methods.set(method.name, { method, run });
  }
  return { typeName: descriptor.typeName, methods };
}

function decodeRequest(method: DescMethod, payload: Uint8Array): Message {
  try {
    return fromBinary(method.input, payload);
  } catch (thrown) {
    throw toHearthError(thrown, `decode ${method.input.typeName}`, "invalid-argument");
  }
}
