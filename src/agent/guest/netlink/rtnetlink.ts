/** Messages about links, addresses, routes and neighbours. Source: rtnetlink(7), linux/rtnetlink.h, if_link.h, if_addr.h. */
import { HearthError } from "../../../errors.ts";
import { cString, fromCString } from "../../../sys/libc.ts";
import { decodeAttributes, readU32, u32, withAttributes } from "../../../sys/netlink-message.ts";
import type { Family, IpAddress } from "./address.ts";

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
export const IFF_PROMISC = 0x100;
export const IFF_ALLMULTI = 0x200;

const AF_UNSPEC = 0;
const AF_INET = 2;
const AF_INET6 = 10;

const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_LABEL = 3;
const IFA_BROADCAST = 4;
const IFA_CACHEINFO = 6;
const IFA_FLAGS = 8;
/** Usable at once, without asking the network whether somebody else has it. */
const IFA_F_NODAD = 0x02;
/** Not taken for new connections. The kernel's own to set, for addresses whose time of preference is over. */
const IFA_F_DEPRECATED = 0x20;
const FOREVER_S = 0xffffffff;
const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_PRIORITY = 6;
const RTA_PREFSRC = 7;
const RTA_METRICS = 8;
const RTA_MULTIPATH = 9;
const RTA_TABLE = 15;
const RTA_PREF = 20;
const RTA_EXPIRES = 23;
const NDA_DST = 1;
const NDA_LLADDR = 2;

export const RT_TABLE_MAIN = 254;
export const RTN_UNICAST = 1;
export const RTPROT_KERNEL = 2;
export const RTPROT_STATIC = 4;
export const RT_SCOPE_UNIVERSE = 0;
export const RT_SCOPE_LINK = 253;

export function familyNumber(family: Family | undefined): number {
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
  readonly mac?: Uint8Array;
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
    [IFLA_ADDRESS, change.mac],
    [IFLA_IFNAME, change.name === undefined ? undefined : cString(change.name)],
    [IFLA_MTU, change.mtu === undefined ? undefined : u32(change.mtu)],
  ]);
}

export interface LinkAddress {
  readonly linkIndex: number;
  readonly address: IpAddress;
  readonly prefixLength: number;
  readonly scope: number;
  /** The other end's, on a link that has one. */
  readonly peer: Uint8Array | undefined;
  readonly broadcast: Uint8Array | undefined;
  /** IPv4 only; empty: the link's name. */
  readonly label: string;
  /** IFA_F_* */
  readonly flags: number;
}

/** struct ifaddrmsg. */
const ADDRESS_BYTES = 8;

/** Undefined for families other than IP. */
export function decodeAddress(payload: Uint8Array): LinkAddress | undefined {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const family = familyOf(view.getUint8(0));
  const attributes = decodeAttributes(payload, ADDRESS_BYTES);
  // IFA_ADDRESS is the other end's where there is one.
  const other = attributes.get(IFA_ADDRESS);
  const bytes = attributes.get(IFA_LOCAL) ?? other;
  if (family === undefined || bytes === undefined) return undefined;
  return {
    linkIndex: view.getUint32(4, true),
    address: { family, bytes },
    prefixLength: view.getUint8(1),
    scope: view.getUint8(3),
    peer: other !== undefined && Buffer.compare(other, bytes) !== 0 ? other : undefined,
    broadcast: attributes.get(IFA_BROADCAST),
    label: fromCString(attributes.get(IFA_LABEL) ?? new Uint8Array(0)),
    flags: readU32(attributes.get(IFA_FLAGS)) ?? view.getUint8(2),
  };
}

export function encodeAddress(change: LinkAddress): Uint8Array {
  const { address, label, flags } = change;
  const fixed = new Uint8Array(ADDRESS_BYTES);
  const view = new DataView(fixed.buffer);
  view.setUint8(0, familyNumber(address.family));
  view.setUint8(1, change.prefixLength);
  view.setUint8(3, change.scope);
  view.setUint32(4, change.linkIndex, true);
  const isDeprecated = (flags & IFA_F_DEPRECATED) !== 0;
  return withAttributes(fixed, [
    [IFA_LOCAL, address.bytes],
    [IFA_ADDRESS, change.peer ?? address.bytes],
    [IFA_BROADCAST, change.broadcast],
    [IFA_LABEL, label === "" ? undefined : cString(label)],
    [IFA_FLAGS, u32((flags & ~IFA_F_DEPRECATED) | (address.family === "v6" ? IFA_F_NODAD : 0))],
    // struct ifa_cacheinfo: preferred and valid for so many seconds, and two times that the kernel sets.
    [IFA_CACHEINFO, isDeprecated ? Uint8Array.from(Buffer.concat([0, FOREVER_S, 0, 0].map(u32))) : undefined],
  ]);
}

export interface RouteHop {
  readonly gateway: Uint8Array | undefined;
  readonly linkIndex: number;
  /** 1 to 256. */
  readonly weight: number;
  /** RTNH_F_* */
  readonly flags: number;
}

export interface LinkRoute {
  readonly family: Family;
  readonly table: number;
  /** Undefined: the default route. */
  readonly destination: { readonly bytes: Uint8Array; readonly prefixLength: number } | undefined;
  /** RTN_* */
  readonly type: number;
  readonly gateway: Uint8Array | undefined;
  readonly source: Uint8Array | undefined;
  readonly linkIndex: number | undefined;
  readonly scope: number;
  /** RTNH_F_*, such as 4 for "onlink". */
  readonly flags: number;
  readonly protocol: number;
  /** 0: the kernel's. */
  readonly metric: number;
  readonly tos: number;
  /** ICMPV6_ROUTER_PREF_* */
  readonly preference: number;
  /** Seconds from now; 0: never, and what is read. */
  readonly expires: number;
  /** Values by RTAX_*. */
  readonly metrics: ReadonlyMap<number, number>;
  /** In place of gateway and link. */
  readonly hops: readonly RouteHop[];
}

/** struct rtmsg. */
const ROUTE_BYTES = 12;
/** struct rtnexthop. */
const HOP_BYTES = 8;

/** Undefined for families other than IP. */
export function decodeRoute(payload: Uint8Array): LinkRoute | undefined {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const attributes = decodeAttributes(payload, ROUTE_BYTES);
  const family = familyOf(view.getUint8(0));
  const table = readU32(attributes.get(RTA_TABLE)) ?? view.getUint8(4);
  if (family === undefined) return undefined;
  const destination = attributes.get(RTA_DST);
  return {
    family,
    table,
    destination: destination && { bytes: destination, prefixLength: view.getUint8(1) },
    type: view.getUint8(7),
    gateway: attributes.get(RTA_GATEWAY),
    source: attributes.get(RTA_PREFSRC),
    linkIndex: readU32(attributes.get(RTA_OIF)),
    scope: view.getUint8(6),
    flags: view.getUint32(8, true),
    protocol: view.getUint8(5),
    metric: readU32(attributes.get(RTA_PRIORITY)) ?? 0,
    tos: view.getUint8(3),
    preference: attributes.get(RTA_PREF)?.[0] ?? 0,
    expires: 0,
    metrics: decodeMetrics(attributes.get(RTA_METRICS)),
    hops: decodeHops(attributes.get(RTA_MULTIPATH)),
  };
}

function decodeMetrics(bytes: Uint8Array | undefined): Map<number, number> {
  const nested = bytes === undefined ? [] : [...decodeAttributes(bytes, 0)];
  return new Map(nested.map(([kind, value]) => [kind, readU32(value) ?? 0]));
}

function decodeHops(bytes: Uint8Array | undefined): RouteHop[] {
  const hops: RouteHop[] = [];
  if (bytes === undefined) return hops;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at + HOP_BYTES <= bytes.length; ) {
    const length = view.getUint16(at, true);
    if (length < HOP_BYTES || at + length > bytes.length) {
      throw new HearthError("internal", `decode next hop: length ${length} at ${at} of ${bytes.length}`);
    }
    const gateway = decodeAttributes(bytes.subarray(at, at + length), HOP_BYTES).get(RTA_GATEWAY);
    const [flags, weight] = [view.getUint8(at + 2), view.getUint8(at + 3) + 1];
    hops.push({ gateway, linkIndex: view.getInt32(at + 4, true), weight, flags });
    // Always whole words: RTNH_ALIGN.
    at += (length + 3) & ~3;
  }
  return hops;
}

function encodeHop(hop: RouteHop): Uint8Array {
  const fixed = new Uint8Array(HOP_BYTES);
  const view = new DataView(fixed.buffer);
  view.setUint8(2, hop.flags);
  view.setUint8(3, hop.weight - 1);
  view.setInt32(4, hop.linkIndex, true);
  const bytes = withAttributes(fixed, [[RTA_GATEWAY, hop.gateway]]);
  new DataView(bytes.buffer).setUint16(0, bytes.length, true);
  return bytes;
}

export function encodeRoute(route: LinkRoute): Uint8Array {
  const fixed = new Uint8Array(ROUTE_BYTES);
  const view = new DataView(fixed.buffer);
  view.setUint8(0, familyNumber(route.family));
  view.setUint8(1, route.destination?.prefixLength ?? 0);
  view.setUint8(3, route.tos);
  view.setUint8(5, route.protocol);
  view.setUint8(6, route.scope);
  view.setUint8(7, route.type);
  view.setUint32(8, route.flags, true);
  const metrics = [...route.metrics].map(([kind, value]) => [kind, u32(value)] as const);
  return withAttributes(fixed, [
    [RTA_TABLE, u32(route.table)],
    [RTA_DST, route.destination?.bytes],
    [RTA_GATEWAY, route.gateway],
    [RTA_PREFSRC, route.source],
    [RTA_OIF, route.linkIndex === undefined ? undefined : u32(route.linkIndex)],
    [RTA_PRIORITY, route.metric === 0 ? undefined : u32(route.metric)],
    [RTA_METRICS, metrics.length === 0 ? undefined : withAttributes(new Uint8Array(0), metrics)],
    [RTA_MULTIPATH, route.hops.length === 0 ? undefined : Uint8Array.from(Buffer.concat(route.hops.map(encodeHop)))],
    [RTA_PREF, route.preference === 0 ? undefined : Uint8Array.of(route.preference)],
    [RTA_EXPIRES, route.expires === 0 ? undefined : u32(route.expires)],
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
