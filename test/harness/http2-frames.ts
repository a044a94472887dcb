/** HTTP/2 by hand, for clients that break its rules. Source: RFC 9113, sections 3.4, 4.1 and 6; RFC 7541, section 6.2.2. */

export const PREFACE = new TextEncoder().encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

export const DATA = 0;
export const HEADERS = 1;
export const SETTINGS = 4;
export const END_STREAM = 0x1;
export const END_HEADERS = 0x4;

export function frame(type: number, flags: number, stream: number, payload: Uint8Array = new Uint8Array()): Uint8Array {
  const bytes = Buffer.alloc(9 + payload.length);
  bytes.writeUIntBE(payload.length, 0, 3);
  bytes.writeUInt8(type, 3);
  bytes.writeUInt8(flags, 4);
  bytes.writeUInt32BE(stream, 5);
  bytes.set(payload, 9);
  return bytes;
}

/** Header fields of a call, literal and not indexed; each name and value is shorter than 127 bytes. */
export function callHeaders(path: string): Uint8Array {
  const fields = {
    ":method": "POST",
    ":scheme": "http",
    ":path": path,
    ":authority": "localhost",
    "content-type": "application/grpc",
    te: "trailers",
  };
  const literal = (text: string): number[] => [text.length, ...new TextEncoder().encode(text)];
  return Uint8Array.from(Object.entries(fields).flatMap(([name, value]) => [0, ...literal(name), ...literal(value)]));
}
