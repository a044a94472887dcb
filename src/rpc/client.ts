/** The calling side of RPC, whatever the transport: typed functions of a service over something that makes one call. */
import { create, type DescMethod, type DescService, fromBinary, type Message, toBinary } from "@bufbuild/protobuf";
import type { GenService, GenServiceMethods } from "@bufbuild/protobuf/codegenv2";
import { toHearthError } from "../errors.ts";
import { methodName, type ServiceClient, type UnaryTransport } from "./call.ts";

export function createServiceClient<Methods extends GenServiceMethods, Options>(
  service: GenService<Methods>,
  transport: UnaryTransport<Options>,
): ServiceClient<Methods, Options> {
  const descriptor: DescService = service;
  const functions: Record<string, (request: Record<string, unknown>, options?: Options) => Promise<Message>> = {};
  for (const method of descriptor.methods) {
    if (method.methodKind !== "unary") continue;
    functions[method.localName] = async (request, options) => {
      const payload = toBinary(method.input, create(method.input, request));
      return decodeAnswer(method, await transport.call(method, payload, options));
    };
  }
  // The generated type names exactly the methods of the descriptor, which is what was walked above.
  return functions as unknown as ServiceClient<Methods, Options>;
}

function decodeAnswer(method: DescMethod, payload: Uint8Array): Message {
  try {
    return fromBinary(method.output, payload);
  } catch (thrown) {
    throw toHearthError(thrown, `decode answer of ${methodName(method)}`);
  }
}
