/** IPv4 addresses as text and as the kernel takes them. */
import { HearthError } from "../errors.ts";
import { struct } from "./libc.ts";

export const AF_INET = 2;
const SOCKADDR_IN_BYTES = 16;

/** "127.0.0.11" as four bytes. Fails with invalid-argument for anything else. */
export function parseIpv4(text: string): readonly [number, number, number, number] {
  const parts = text.split(".").map((part) => (/^\d{1,3}$/.test(part) ? Number(part) : 256));
  const [a, b, c, d, ...more] = parts;
  if (
    a === undefined ||
    b === undefined ||
    c === undefined ||
    d === undefined ||
    more.length > 0 ||
    Math.max(...parts) > 255
  )
    throw new HearthError("invalid-argument", `read IPv4 address ${JSON.stringify(text)}`);
  return [a, b, c, d];
}

/** struct sockaddr_in: u16 family, u16 port and u32 address in network order, zeros. */
export function encodeIpv4(address: string, port: number): Uint8Array {
  const { bytes, view } = struct(SOCKADDR_IN_BYTES);
  view.setUint16(0, AF_INET, true);
  view.setUint16(2, port, false);
  bytes.set(parseIpv4(address), 4);
  return bytes;
}
