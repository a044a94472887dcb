/** Netlink's framing: messages with a header, attributes inside them. Source: netlink(7), linux/netlink.h. */
import { HearthError, SystemError } from "../errors.ts";
import { errnoName } from "./libc.ts";

export const NLM_F_REQUEST = 0x1;
export const NLM_F_ACK = 0x4;
export const NLM_F_DUMP = 0x300;
export const NLM_F_REPLACE = 0x100;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;
export const NLM_F_APPEND = 0x800;

export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;
const NLM_F_DUMP_INTR = 0x10;

const HEADER_BYTES = 16;
const ATTRIBUTE_HEADER_BYTES = 4;
/** The two top bits of an attribute's type say how to read it, not what it is. */
const NLA_TYPE_MASK = 0x3fff;

export interface NetlinkMessage {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly payload: Uint8Array;
}

export function encodeMessage(message: NetlinkMessage): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + message.payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint16(4, message.type, true);
  view.setUint16(6, message.flags, true);
  view.setUint32(8, message.sequence, true);
  bytes.set(message.payload, HEADER_BYTES);
  return bytes;
}

/** The messages of one datagram. */
export function decodeMessages(datagram: Uint8Array): NetlinkMessage[] {
  const view = new DataView(datagram.buffer, datagram.byteOffset, datagram.byteLength);
  const messages: NetlinkMessage[] = [];
  for (let at = 0; at + HEADER_BYTES <= datagram.length; ) {
    const length = view.getUint32(at, true);
    if (length < HEADER_BYTES || at + length > datagram.length) {
      throw new HearthError("internal", `decode netlink message: length ${length} at ${at} of ${datagram.length}`);
    }
    messages.push({
      type: view.getUint16(at + 4, true),
      flags: view.getUint16(at + 6, true),
      sequence: view.getUint32(at + 8, true),
      payload: datagram.subarray(at + HEADER_BYTES, at + length),
    });
    at += aligned(length);
  }
  return messages;
}

/** The dump changed while it was made and has to be asked for again. */
export function isInterrupted(message: NetlinkMessage): boolean {
  return (message.flags & NLM_F_DUMP_INTR) !== 0;
}

/** The error that an NLMSG_ERROR or NLMSG_DONE carries; undefined for an acknowledgement. */
export function errorOf(message: NetlinkMessage, what: string): SystemError | undefined {
  if (message.payload.length < 4) return undefined;
  const { buffer, byteOffset } = message.payload;
  const code = new DataView(buffer, byteOffset).getInt32(0, true);
  return code < 0 ? new SystemError(errnoName(-code), what) : undefined;
}

export type Attributes = ReadonlyMap<number, Uint8Array>;

/** Attributes by type from `offset` on; of several of one type the last counts. */
export function decodeAttributes(payload: Uint8Array, offset: number): Attributes {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const attributes = new Map<number, Uint8Array>();
  for (let at = offset; at + ATTRIBUTE_HEADER_BYTES <= payload.length; ) {
    const length = view.getUint16(at, true);
    if (length < ATTRIBUTE_HEADER_BYTES || at + length > payload.length) {
      throw new HearthError("internal", `decode netlink attribute: length ${length} at ${at} of ${payload.length}`);
    }
    attributes.set(
      view.getUint16(at + 2, true) & NLA_TYPE_MASK,
      payload.subarray(at + ATTRIBUTE_HEADER_BYTES, at + length),
    );
    at += aligned(length);
  }
  return attributes;
}

/** A fixed structure followed by attributes; undefined values are left out. */
export function withAttributes(
  fixed: Uint8Array,
  attributes: readonly (readonly [type: number, value: Uint8Array | undefined])[],
): Uint8Array {
  const parts: Uint8Array[] = [padded(fixed)];
  for (const [type, value] of attributes) {
    if (value === undefined) continue;
    const bytes = new Uint8Array(ATTRIBUTE_HEADER_BYTES + value.length);
    const view = new DataView(bytes.buffer);
    view.setUint16(0, bytes.length, true);
    view.setUint16(2, type, true);
    bytes.set(value, ATTRIBUTE_HEADER_BYTES);
    parts.push(padded(bytes));
  }
  return Uint8Array.from(Buffer.concat(parts));
}

export function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

export function readU32(bytes: Uint8Array | undefined): number | undefined {
  if (bytes === undefined || bytes.length < 4) return undefined;
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
}

function aligned(length: number): number {
  return (length + 3) & ~3;
}

function padded(bytes: Uint8Array): Uint8Array {
  if (bytes.length % 4 === 0) return bytes;
  const whole = new Uint8Array(aligned(bytes.length));
  whole.set(bytes);
  return whole;
}
