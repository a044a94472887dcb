/** Messages about links, addresses, routes and neighbours. Source: rtnetlink(7), linux/rtnetlink.h, if_link.h, if_addr.h. */
import { cString, fromCString } from "../../../sys/libc.ts";
import type { Family, IpAddress } from "./address.ts";
import { type Attributes, decodeAttributes, readU32, u32, withAttributes } from "./message.ts";

export const RTM_NEWLINK = 16;
export const RTM_GETLINK = 18;
export const RTM_NEWADDR = 20;
export const RTM_DELADDR = 21;
export const RTM_GETADDR = 22;
export const RTM_NEWROUTE = 24;
export const RTM_DELROUTE = 25;
export const RTM_GETROUTE = 26;
export const RTM_NEWNEIGH = 28;

export const IFF_UP = 0x1;
export const IFF_LOOPBACK = 0x8;
export const IFF_NOARP = 0x80;

const AF_UNSPEC = 0;
const AF_INET = 2;
const AF_INET6 = 10;

const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
/** Usable at once, without asking the network whether somebody else has it. */
const IFA_F_NODAD = 0x02;
const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_PREFSRC = 7;
const RTA_METRICS = 8;
const RTA_TABLE = 15;
const RTAX_MTU = 2;
const NDA_DST = 1;
const NDA_LLADDR = 2;

const RT_TABLE_MAIN = 254;
const RTN_UNICAST = 1;
export const RTPROT_KERNEL = 2;
const RTPROT_STATIC = 4;
export const RT_SCOPE_UNIVERSE = 0;
export const RT_SCOPE_LINK = 253;

function familyNumber(family: Family | undefined): number {
  if (family === undefined) return AF_UNSPEC;
  return family === "v4" ? AF_INET : AF_INET6;
}

function familyOf(number: number): Family | undefined {
  if (number === AF_INET) return "v4";
  return number === AF_INET6 ? "v6" : undefined;
}

export interface Link {
  readonly index: number;
  readonly name: string;
  /** Empty for links without one. */
  readonly mac: Uint8Array;
  readonly mtu: number;
  /** IFF_* bits. */
  readonly flags: number;
}

/** struct ifinfomsg. */
const LINK_BYTES = 16;

export function decodeLink(payload: Uint8Array): Link {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const attributes = decodeAttributes(payload, LINK_BYTES);
  return {
    index: view.getInt32(4, true),
    flags: view.getUint32(8, true),
    name: fromCString(attributes.get(IFLA_IFNAME) ?? new Uint8Array(0)),
    mac: attributes.get(IFLA_ADDRESS) ?? new Uint8Array(0),
    mtu: readU32(attributes.get(IFLA_MTU)) ?? 0,
  };
}

export interface LinkChange {
  readonly index: number;
  readonly name?: string;
  readonly mtu?: number;
  /** IFF_* bits to set and to clear; the others stay. */
  readonly setFlags?: number;
  readonly clearFlags?: number;
}

export function encodeLink(change: LinkChange): Uint8Array {
  const fixed = new Uint8Array(LINK_BYTES);
  const view = new DataView(fixed.buffer);
  const { setFlags = 0, clearFlags = 0 } = change;
  view.setInt32(4, change.index, true);
  view.setUint32(8, setFlags, true);
  view.setUint32(12, setFlags | clearFlags, true);
  return withAttributes(fixed, [
    [IFLA_IFNAME, change.name === undefined ? undefined : cString(change.name)],
    [IFLA_MTU, change.mtu === undefined ? undefined : u32(change.mtu)],
  ]);
}

export interface LinkAddress {
  readonly linkIndex: number;
  readonly address: IpAddress;
  readonly prefixLength: number;
  readonly scope: number;
}

/** struct ifaddrmsg. */
const ADDRESS_BYTES = 8;

/** Undefined for families other than IP. */
export function decodeAddress(payload: Uint8Array): LinkAddress | undefined {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const family = familyOf(view.getUint8(0));
  const attributes = decodeAttributes(payload, ADDRESS_BYTES);
  // On point-to-point links IFA_ADDRESS is the other side's.
  const bytes = attributes.get(IFA_LOCAL) ?? attributes.get(IFA_ADDRESS);
  if (family === undefined || bytes === undefined) return undefined;
  return {
    linkIndex: view.getUint32(4, true),
    address: { family, bytes },
    prefixLength: view.getUint8(1),
    scope: view.getUint8(3),
  };
}

export function encodeAddress({ linkIndex, address, prefixLength, scope }: LinkAddress): Uint8Array {
  const fixed = new Uint8Array(ADDRESS_BYTES);
  const view = new DataView(fixed.buffer);
  view.setUint8(0, familyNumber(address.family));
  view.setUint8(1, prefixLength);
  view.setUint8(2, address.family === "v6" ? IFA_F_NODAD : 0);
  view.setUint8(3, scope);
  view.setUint32(4, linkIndex, true);
  return withAttributes(fixed, [
    [IFA_LOCAL, address.bytes],
    [IFA_ADDRESS, address.bytes],
  ]);
}

export interface LinkRoute {
  readonly family: Family;
  /** Undefined: the default route. */
  readonly destination: { readonly bytes: Uint8Array; readonly prefixLength: number } | undefined;
  readonly gateway: Uint8Array | undefined;
  readonly source: Uint8Array | undefined;
  readonly linkIndex: number | undefined;
  readonly scope: number;
  /** RTNH_F_*, such as 4 for "onlink". */
  readonly flags: number;
  /** 0: the link's. */
  readonly mtu: number;
  readonly protocol: number;
}

/** struct rtmsg. */
const ROUTE_BYTES = 12;

/** Undefined for anything but unicast routes of the main table. */
export function decodeRoute(payload: Uint8Array): LinkRoute | undefined {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const attributes = decodeAttributes(payload, ROUTE_BYTES);
  const family = familyOf(view.getUint8(0));
  const table = readU32(attributes.get(RTA_TABLE)) ?? view.getUint8(4);
  if (family === undefined || table !== RT_TABLE_MAIN || view.getUint8(7) !== RTN_UNICAST) return undefined;
  const destination = attributes.get(RTA_DST);
  return {
    family,
    destination: destination && { bytes: destination, prefixLength: view.getUint8(1) },
    gateway: attributes.get(RTA_GATEWAY),
    source: attributes.get(RTA_PREFSRC),
    linkIndex: readU32(attributes.get(RTA_OIF)),
    scope: view.getUint8(6),
    flags: view.getUint32(8, true),
    mtu: routeMtu(attributes),
    protocol: view.getUint8(5),
  };
}

function routeMtu(attributes: Attributes): number {
  const metrics = attributes.get(RTA_METRICS);
  return metrics === undefined ? 0 : (readU32(decodeAttributes(metrics, 0).get(RTAX_MTU)) ?? 0);
}

export function encodeRoute(route: LinkRoute): Uint8Array {
  const fixed = new Uint8Array(ROUTE_BYTES);
  const view = new DataView(fixed.buffer);
  view.setUint8(0, familyNumber(route.family));
  view.setUint8(1, route.destination?.prefixLength ?? 0);
  view.setUint8(4, RT_TABLE_MAIN);
  view.setUint8(5, route.protocol === 0 ? RTPROT_STATIC : route.protocol);
  view.setUint8(6, route.scope);
  view.setUint8(7, RTN_UNICAST);
  view.setUint32(8, route.flags, true);
  return withAttributes(fixed, [
    [RTA_DST, route.destination?.bytes],
    [RTA_GATEWAY, route.gateway],
    [RTA_PREFSRC, route.source],
    [RTA_OIF, route.linkIndex === undefined ? undefined : u32(route.linkIndex)],
    [RTA_METRICS, route.mtu === 0 ? undefined : withAttributes(new Uint8Array(0), [[RTAX_MTU, u32(route.mtu)]])],
  ]);
}

export interface Neighbour {
  readonly linkIndex: number;
  readonly address: IpAddress;
  readonly mac: Uint8Array;
  /** NUD_* */
  readonly state: number;
  /** NTF_* */
  readonly flags: number;
}

/** struct ndmsg. */
export function encodeNeighbour(neighbour: Neighbour): Uint8Array {
  const fixed = new Uint8Array(12);
  const view = new DataView(fixed.buffer);
  view.setUint8(0, familyNumber(neighbour.address.family));
  view.setInt32(4, neighbour.linkIndex, true);
  view.setUint16(8, neighbour.state, true);
  view.setUint8(10, neighbour.flags);
  return withAttributes(fixed, [
    [NDA_DST, neighbour.address.bytes],
    [NDA_LLADDR, neighbour.mac],
  ]);
}

/** The fixed part of a dump request: a family and zeros; the kernel accepts the shortest for all kinds. */
export function dumpRequest(kind: number): Uint8Array {
  const lengths: Readonly<Record<number, number>> = {
    [RTM_GETLINK]: LINK_BYTES,
    [RTM_GETADDR]: ADDRESS_BYTES,
    [RTM_GETROUTE]: ROUTE_BYTES,
  };
  return new Uint8Array(lengths[kind] ?? LINK_BYTES);
}
