/** Serving and calling a service by its table: the handlers and types of the generated code without its descriptors. */
import { toHearthError } from "../errors.ts";
import { type CalledMethod, methodName, type UnaryTransport } from "./call.ts";
import type { ServedService } from "./service.ts";
import type { TableCodec } from "./table-codec.ts";

/** As scripts/protoc-gen-table.ts writes it: "localName:input:output" by the method's name on the wire. */
export interface ServiceTable {
  readonly typeName: string;
  readonly methods: Readonly<Record<string, string>>;
}

type ErasedHandler<Context> = (request: unknown, context: Context) => unknown;

/** `Handlers` are those that HandlersOf<…> describes for the service of the table; `codec` knows its messages. */
export function registerTable<Context, Handlers extends object>(
  table: ServiceTable,
  codec: TableCodec,
  handlers: Handlers,
): ServedService<Context> {
  // A handler is only ever given the decoded input of its own method, so erasing the types here is sound.
  const erased = handlers as unknown as Readonly<Record<string, ErasedHandler<Context> | undefined>>;
  const methods = new Map<string, ReturnType<typeof servedMethod<Context>>>();
  for (const [name, text] of Object.entries(table.methods)) {
    const [localName = "", input = "", output = ""] = text.split(":");
    const handler = erased[localName];
    if (handler !== undefined) methods.set(name, servedMethod(codec, input, output, handler.bind(handlers)));
  }
  return { typeName: table.typeName, methods };
}

function servedMethod<Context>(codec: TableCodec, input: string, output: string, handler: ErasedHandler<Context>) {
  return {
    run: async (payload: Uint8Array, context: Context): Promise<Uint8Array> => {
      const answer = await handler(decode(codec, input, payload), context);
      return codec.encode(output, Object(answer));
    },
  };
}

function decode(codec: TableCodec, typeName: string, payload: Uint8Array): unknown {
  try {
    return codec.decode(typeName, payload);
  } catch (thrown) {
    throw toHearthError(thrown, `decode ${typeName}`, "invalid-argument");
  }
}

/** `Client` is what ClientOf<…> describes for the service of the table; `codec` knows its messages. */
export function createTableClient<Client extends object, Options>(
  table: ServiceTable,
  codec: TableCodec,
  transport: UnaryTransport<Options>,
): Client {
  const functions: Record<string, (request: object, options?: Options) => Promise<unknown>> = {};
  for (const [name, text] of Object.entries(table.methods)) {
    const [localName = "", input = "", output = ""] = text.split(":");
    const method: CalledMethod = { name, parent: table };
    functions[localName] = async (request, options) => {
      const answer = await transport.call(method, codec.encode(input, request), options);
      return decodeAnswer(codec, output, answer, method);
    };
  }
  // The table was generated from the same definition as the type, and names its methods.
  return functions as unknown as Client;
}

function decodeAnswer(codec: TableCodec, typeName: string, payload: Uint8Array, method: CalledMethod): unknown {
  try {
    return codec.decode(typeName, payload);
  } catch (thrown) {
    throw toHearthError(thrown, `decode answer of ${methodName(method)}`);
  }
}
