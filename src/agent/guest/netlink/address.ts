/** Network addresses between their text and their bytes. */
import { isIPv4, isIPv6 } from "node:net";
import { HearthError } from "../../../errors.ts";

export type Family = "v4" | "v6";

export interface IpAddress {
  readonly family: Family;
  /** 4 or 16. */
  readonly bytes: Uint8Array;
}

/** "10.0.0.1" or "fe80::1", without prefix length or zone. */
export function parseIp(text: string): IpAddress {
  if (isIPv4(text)) return { family: "v4", bytes: Uint8Array.from(text.split("."), Number) };
  if (!isIPv6(text) || text.includes("%")) {
    throw new HearthError("invalid-argument", `parse IP address ${JSON.stringify(text)}`);
  }
  return { family: "v6", bytes: parseIpv6(text) };
}

/** The text was found valid. */
function parseIpv6(text: string): Uint8Array {
  const dotted = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(text);
  const hex = (high: string | undefined, low: string | undefined): string =>
    ((Number(high) << 8) | Number(low)).toString(16);
  const plain = dotted === null ? text : `${dotted[1]}${hex(dotted[2], dotted[3])}:${hex(dotted[4], dotted[5])}`;
  const [head = "", tail] = plain.split("::");
  const groups = (part: string): number[] => (part === "" ? [] : part.split(":").map((group) => Number(`0x${group}`)));
  const before = groups(head);
  const after = tail === undefined ? [] : groups(tail);
  const all = [...before, ...new Array<number>(8 - before.length - after.length).fill(0), ...after];
  return Uint8Array.from(all.flatMap((group) => [group >> 8, group & 0xff]));
}

/** Canonical text of 4 or 16 bytes. Source: RFC 5952. */
export function formatIp(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join(".");
  if (bytes.length !== 16) throw new HearthError("internal", `format IP address of ${bytes.length} bytes`);
  const groups: number[] = [];
  for (let at = 0; at < 16; at += 2) groups.push(((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0));
  const { start, length } = longestZeroRun(groups);
  const text = (part: readonly number[]): string => part.map((group) => group.toString(16)).join(":");
  if (length < 2) return text(groups);
  return `${text(groups.slice(0, start))}::${text(groups.slice(start + length))}`;
}

function longestZeroRun(groups: readonly number[]): { readonly start: number; readonly length: number } {
  let best = { start: 0, length: 0 };
  for (let start = 0; start < groups.length; start++) {
    let length = 0;
    while (groups[start + length] === 0) length++;
    if (length > best.length) best = { start, length };
  }
  return best;
}

export interface IpPrefix extends IpAddress {
  /** Bits, 0 to 32 or 128. */
  readonly prefixLength: number;
}

/** "10.0.0.0/8"; without a length the whole address counts. */
export function parsePrefix(text: string): IpPrefix {
  const [address = "", length] = text.split("/");
  const ip = parseIp(address);
  return { ...ip, prefixLength: parsePrefixLength(length ?? String(ip.bytes.length * 8), ip.family) };
}

export function parsePrefixLength(text: string, family: Family): number {
  const length = Number(text);
  if (!/^\d{1,3}$/.test(text) || length > (family === "v4" ? 32 : 128)) {
    throw new HearthError("invalid-argument", `parse prefix length ${JSON.stringify(text)}`);
  }
  return length;
}

/** Six bytes from "52:54:00:12:34:56". */
export function parseMac(text: string): Uint8Array {
  if (!/^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/i.test(text)) {
    throw new HearthError("invalid-argument", `parse hardware address ${JSON.stringify(text)}`);
  }
  return Uint8Array.from(text.split(":"), (part) => Number(`0x${part}`));
}

export function formatMac(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}
