/** What calling needs to know of a service, however its messages are encoded; no descriptors are loaded for it. */
import type { MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { GenServiceMethods } from "@bufbuild/protobuf/codegenv2";

/** One function per unary method, by its local name. */
export type ServiceClient<Methods extends GenServiceMethods, Options> = {
  readonly [Name in keyof Methods]: (
    request: MessageInitShape<Methods[Name]["input"]>,
    options?: Options,
  ) => Promise<MessageShape<Methods[Name]["output"]>>;
};

/** A method's names on the wire; its descriptor has them. */
export interface CalledMethod {
  readonly name: string;
  readonly parent: { readonly typeName: string };
}

/** Makes one call: serialized request in, serialized answer out. */
export interface UnaryTransport<Options> {
  call(method: CalledMethod, payload: Uint8Array, options: Options | undefined): Promise<Uint8Array>;
}

/** `package.Service/Method`, as gRPC spells it and as error messages name a call. */
export function methodName(method: CalledMethod): string {
  return `${method.parent.typeName}/${method.name}`;
}
