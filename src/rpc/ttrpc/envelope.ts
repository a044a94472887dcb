/** What a ttRPC request and response frame carry around the messages of the service. */

import type { Request, Response } from "../../gen/ttrpc_pb.ts";
import { ttrpcMessages } from "../../gen/ttrpc_table.ts";
import type { RpcStatus } from "../status.ts";
import { TableCodec } from "../table-codec.ts";

const codec = new TableCodec(ttrpcMessages);

export type RequestEnvelope = Pick<Request, "service" | "method" | "payload" | "timeoutNano">;

export function encodeRequestEnvelope(request: RequestEnvelope): Uint8Array {
  return codec.encode("ttrpc.Request", request);
}

/** Bytes that are none are "invalid-argument". */
export function decodeRequestEnvelope(bytes: Uint8Array): RequestEnvelope {
  // The table was generated from the same definition as the type.
  return codec.decode("ttrpc.Request", bytes) as unknown as RequestEnvelope;
}

export type ResponseEnvelope = Pick<Response, "payload"> & { readonly status?: RpcStatus | undefined };

/** An empty status as well as none means success; Go's client dereferences it, so give one. */
export function encodeResponseEnvelope(response: Partial<ResponseEnvelope>): Uint8Array {
  return codec.encode("ttrpc.Response", response);
}

/** Bytes that are none are "invalid-argument". */
export function decodeResponseEnvelope(bytes: Uint8Array): ResponseEnvelope {
  return codec.decode("ttrpc.Response", bytes) as unknown as ResponseEnvelope;
}
