/**
 * What a ttRPC request and response frame carry around the messages of the service. Encoded, it is everything but the
 * payload's bytes, which follow it: the payload is the last field, so that it need not be copied.
 */
import type { Request, Response } from "../../gen/ttrpc_pb.ts";
import { ttrpcMessages } from "../../gen/ttrpc_table.ts";
import type { RpcStatus } from "../status.ts";
import { TableCodec } from "../table-codec.ts";
import { WIRE_BYTES, WireWriter } from "../wire.ts";

const codec = new TableCodec(ttrpcMessages);

export type RequestEnvelope = Pick<Request, "service" | "method" | "payload" | "timeoutNano">;

/** What comes before the payload. */
export function encodeRequestEnvelope({ payload, ...others }: RequestEnvelope): Uint8Array {
  return beforePayload(codec.encode("ttrpc.Request", others), REQUEST_PAYLOAD, payload.length);
}

/** Bytes that are none are "invalid-argument". */
export function decodeRequestEnvelope(bytes: Uint8Array): RequestEnvelope {
  // The table was generated from the same definition as the type.
  return codec.decode("ttrpc.Request", bytes) as unknown as RequestEnvelope;
}

export type ResponseEnvelope = Pick<Response, "payload"> & { readonly status?: RpcStatus | undefined };

/** What comes before the payload. An empty status as well as none means success; Go's client dereferences it, so give one. */
export function encodeResponseEnvelope(status: RpcStatus, payload: Uint8Array): Uint8Array {
  return beforePayload(codec.encode("ttrpc.Response", { status }), RESPONSE_PAYLOAD, payload.length);
}

/** Numbers of the field `payload`. Source: containerd/ttrpc request.proto. */
const REQUEST_PAYLOAD = 3;
const RESPONSE_PAYLOAD = 2;

/** An empty payload takes no bytes at all, as that of any field with its default value. */
function beforePayload(others: Uint8Array, field: number, length: number): Uint8Array {
  if (length === 0) return others;
  const writer = new WireWriter();
  writer.raw(others);
  writer.tag(field, WIRE_BYTES);
  writer.uint32(length);
  return writer.finish();
}

/** Bytes that are none are "invalid-argument". */
export function decodeResponseEnvelope(bytes: Uint8Array): ResponseEnvelope {
  return codec.decode("ttrpc.Response", bytes) as unknown as ResponseEnvelope;
}
