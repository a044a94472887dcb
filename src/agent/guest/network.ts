/** The guest's network as the agent protocol sees it: interfaces by hardware address, addresses, routes, neighbours. */
import { writeFileSync } from "node:fs";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { HearthError, SystemError, toHearthError } from "../../errors.ts";
import type { ARPNeighbors, InterfacesSchema, RoutesSchema } from "../../gen/agent_pb.ts";
import type { ARPNeighbor, Interface, InterfaceSchema, IPAddress, IPFamily, Route } from "../../gen/types_pb.ts";
import { NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE } from "../../sys/netlink-message.ts";
import { waitForDevice } from "./devices.ts";
import {
  type Family,
  formatIp,
  formatMac,
  parseIp,
  parseMac,
  parsePrefix,
  parsePrefixLength,
} from "./netlink/address.ts";
import { RouteChannel } from "./netlink/route-channel.ts";
import {
  encodeAddress,
  encodeLink,
  encodeNeighbour,
  encodeRoute,
  IFF_ALLMULTI,
  IFF_LOOPBACK,
  IFF_NOARP,
  IFF_PROMISC,
  IFF_UP,
  type Link,
  type LinkAddress,
  type LinkChange,
  type LinkRoute,
  RT_SCOPE_LINK,
  RT_TABLE_MAIN,
  RTM_DELADDR,
  RTM_DELROUTE,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWNEIGH,
  RTM_NEWROUTE,
  RTN_UNICAST,
  RTPROT_KERNEL,
  RTPROT_STATIC,
} from "./netlink/rtnetlink.ts";

/** IPFamily; not the enum itself, which would load the descriptors. */
const IP_V4: IPFamily = 0;
const IP_V6: IPFamily = 1;
/** Source: rtnetlink(7), ndm_state. */
const NUD_PERMANENT = 0x80;
/** What of a link's flags the host decides. */
const CARRIED_FLAGS = IFF_NOARP | IFF_PROMISC | IFF_ALLMULTI;
/** Source: linux/rtnetlink.h. */
const RTAX_MTU = 2;

type InterfaceInit = MessageInitShape<typeof InterfaceSchema>;

/**
 * Gives the link with the wanted hardware address, waiting for one that is just being plugged, exactly the name, MTU
 * and addresses that are asked for, and brings it up; its addresses first, so that nothing that waits for it is lost.
 * One that has a former address gets the wanted one, and forgets its neighbours even when that is the same: it is on
 * another wire. Returns it as it is then.
 */
export async function updateInterface(wanted: Interface, signal: AbortSignal): Promise<InterfaceInit> {
  const mac = formatMac(parseMac(wanted.hwAddr));
  const former = wanted.formerHwAddr === "" ? undefined : formatMac(parseMac(wanted.formerHwAddr));
  const addresses = wanted.IPAddresses.map(parseAddress);
  if (wanted.name !== "") checkInterfaceName(wanted.name);
  using channel = new RouteChannel();
  // It has the wanted one already when a call before this one failed half-way.
  const found = await waitForLink(channel, former === undefined ? [mac] : [former, mac], signal);
  if (former !== undefined) await exchangeWire(channel, found, mac);
  const name = wanted.name === "" ? found.name : wanted.name;
  if (found.name !== name) await rename(channel, found, name);
  if (addresses.some(({ address }) => isLinkLocal(address.bytes))) makeNoLinkLocal(name);
  const setFlags = wanted.rawFlags & CARRIED_FLAGS;
  await setLink(channel, found, {
    ...(wanted.mtu === 0n ? {} : { mtu: Number(wanted.mtu) }),
    setFlags,
    clearFlags: CARRIED_FLAGS & ~setFlags,
  });
  await setAddresses(channel, found, addresses);
  await setLink(channel, found, { setFlags: IFF_UP });
  const [link] = (await channel.links()).filter(({ index }) => index === found.index);
  if (link === undefined) throw new HearthError("not-found", `configure interface ${name}: it has gone`);
  return describeInterface(link, await channel.addresses());
}

export async function listInterfaces(): Promise<MessageInitShape<typeof InterfacesSchema>> {
  using channel = new RouteChannel();
  const links = await channel.links();
  const addresses = await channel.addresses();
  return { Interfaces: links.map((link) => describeInterface(link, addresses)) };
}

/**
 * Routes of these tables, or of the main one, are replaced by what is `wanted`: first those to what is on the link, which
 * gateways need.
 */
export async function updateRoutes(
  wanted: readonly Route[],
  tables: readonly number[],
): Promise<MessageInitShape<typeof RoutesSchema>> {
  const replaced = new Set(tables.length === 0 ? [RT_TABLE_MAIN] : tables);
  using channel = new RouteChannel();
  const links = await channel.links();
  const routes = wanted.map((route) => parseRoute(route, links));
  for (const old of await channel.routes()) {
    if (replaced.has(old.table) && isReplaceable(old, links)) await deleteRoute(channel, old, links);
  }
  const needsOthers = (route: LinkRoute): boolean =>
    [route, ...route.hops].some(({ gateway }) => gateway !== undefined);
  const ordered = [...routes.filter((route) => !needsOthers(route)), ...routes.filter(needsOthers)];
  for (const route of ordered) {
    await addRoute(channel, route);
  }
  return await describeRoutes(channel, links);
}

export async function listRoutes(): Promise<MessageInitShape<typeof RoutesSchema>> {
  using channel = new RouteChannel();
  return await describeRoutes(channel, await channel.links());
}

export async function addNeighbours({ ARPNeighbors: wanted }: ARPNeighbors): Promise<void> {
  using channel = new RouteChannel();
  const links = await channel.links();
  for (const neighbour of wanted) {
    const payload = encodeNeighbour(parseNeighbour(neighbour, links));
    const what = `add neighbour ${neighbour.toIPAddress?.address ?? ""} of ${neighbour.device}`;
    await channel.change(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, payload, what);
  }
}

/** `macs`: the one that is looked for first is the first. */
async function waitForLink(channel: RouteChannel, macs: readonly string[], signal: AbortSignal): Promise<Link> {
  const find = async (): Promise<Link | undefined> => {
    const links = new Map((await channel.links()).map((link) => [formatMac(link.mac), link]));
    return links.get(macs.find((mac) => links.has(mac)) ?? "");
  };
  return await waitForDevice(`interface ${macs.join(" or ")}`, find, signal);
}

/**
 * Told a hardware address, the kernel forgets an interface's neighbours. The link-local address is the kernel's to make
 * anew, when it comes up with another one.
 */
async function exchangeWire(channel: RouteChannel, link: Link, mac: string): Promise<void> {
  if (formatMac(link.mac) !== mac) await setLink(channel, link, { clearFlags: IFF_UP });
  await setLink(channel, link, { mac: parseMac(mac) });
}

/** Only an interface that is down can be renamed; one that has the name already has to give it up. */
async function rename(channel: RouteChannel, link: Link, name: string): Promise<void> {
  const holder = (await channel.links()).find((other) => other.name === name);
  if (holder !== undefined) {
    if ((holder.flags & IFF_LOOPBACK) !== 0) throw new HearthError("already-exists", `name interface ${name}: taken`);
    await setLink(channel, holder, { clearFlags: IFF_UP });
    await setLink(channel, holder, { name: `spare${holder.index}` });
  }
  await setLink(channel, link, { clearFlags: IFF_UP });
  await setLink(channel, link, { name });
}

/** Source: net/core/dev.c, dev_valid_name; IFNAMSIZ. */
function checkInterfaceName(name: string): void {
  if (/^[^\s/:\0]{1,15}$/.test(name) && name !== "." && name !== "..") return;
  throw new HearthError("invalid-argument", `name interface ${JSON.stringify(name)}: not a valid name`);
}

async function setLink(channel: RouteChannel, link: Link, change: Omit<LinkChange, "index">): Promise<void> {
  await channel.change(
    RTM_NEWLINK,
    0,
    encodeLink({ index: link.index, ...change }),
    `configure interface ${link.name}`,
  );
}

type WantedAddress = Omit<LinkAddress, "linkIndex">;

function parseAddress({ address, mask, peer, broadcast, scope, label, flags }: IPAddress): WantedAddress {
  const ip = parseIp(address);
  return {
    address: ip,
    prefixLength: parsePrefixLength(mask === "" ? String(ip.bytes.length * 8) : mask, ip.family),
    scope: isLinkLocal(ip.bytes) ? RT_SCOPE_LINK : scope,
    peer: parseOptional(peer, ip.family, address),
    broadcast: parseOptional(broadcast, ip.family, address),
    label,
    flags,
  };
}

/** Empty is undefined; `beside` is what it has to be of one family with. */
function parseOptional(text: string, family: Family, beside: string): Uint8Array | undefined {
  if (text === "") return undefined;
  const parsed = parseIp(text);
  if (parsed.family === family) return parsed.bytes;
  throw new HearthError("invalid-argument", `use ${text} beside ${beside}: addresses of different families`);
}

async function setAddresses(channel: RouteChannel, link: Link, addresses: readonly WantedAddress[]): Promise<void> {
  const key = ({ address, peer, prefixLength }: WantedAddress): string =>
    `${formatIp(address.bytes)}${peer === undefined ? "" : ` peer ${formatIp(peer)}`}/${prefixLength}`;
  const keys = new Set(addresses.map(key));
  // The kernel's own link-local address stays, unless others were given.
  const linkLocalGiven = addresses.some(({ address }) => isLinkLocal(address.bytes));
  for (const old of await channel.addresses()) {
    if (old.linkIndex !== link.index || keys.has(key(old))) continue;
    if (!linkLocalGiven && isLinkLocal(old.address.bytes)) continue;
    await channel.change(RTM_DELADDR, 0, encodeAddress(old), `remove address ${key(old)}`);
  }
  for (const address of addresses) {
    const what = `add address ${key(address)} to ${link.name}`;
    await channel.change(
      RTM_NEWADDR,
      NLM_F_CREATE | NLM_F_REPLACE,
      encodeAddress({ ...address, linkIndex: link.index }),
      what,
    );
  }
}

/** The kernel makes none when the interface comes up. Source: linux/if_link.h, IN6_ADDR_GEN_MODE_NONE. */
function makeNoLinkLocal(name: string): void {
  const path = `/proc/sys/net/ipv6/conf/${name}/addr_gen_mode`;
  try {
    writeFileSync(path, "1");
  } catch (thrown) {
    throw toHearthError(thrown, `write ${path}`);
  }
}

/** fe80::/10. */
function isLinkLocal(bytes: Uint8Array): boolean {
  return bytes.length === 16 && bytes[0] === 0xfe && ((bytes[1] ?? 0) & 0xc0) === 0x80;
}

/** Not the kernel's own of the loopback and to the link-local network, and for its own addresses, which no host sends. */
function isReplaceable(route: LinkRoute, links: readonly Link[]): boolean {
  if (route.protocol !== RTPROT_KERNEL) return true;
  if (route.table !== RT_TABLE_MAIN) return false;
  const link = links.find(({ index }) => index === route.linkIndex);
  if (link !== undefined && (link.flags & IFF_LOOPBACK) !== 0) return false;
  return route.destination === undefined || !isLinkLocal(route.destination.bytes);
}

/** One that has gone meanwhile, with another route it depended on say, is as good as deleted. */
async function deleteRoute(channel: RouteChannel, route: LinkRoute, links: readonly Link[]): Promise<void> {
  try {
    await channel.change(RTM_DELROUTE, 0, encodeRoute(route), `remove route ${describeDestination(route)}`);
  } catch (thrown) {
    if (!(thrown instanceof SystemError && thrown.errno === "ESRCH")) throw thrown;
    const left = (await channel.routes()).some(
      (other) => isReplaceable(other, links) && JSON.stringify(other) === JSON.stringify(route),
    );
    if (left) throw thrown;
  }
}

/** Appended, as there may be two to one destination; one that is there already will do. */
async function addRoute(channel: RouteChannel, route: LinkRoute): Promise<void> {
  try {
    const what = `add route ${describeDestination(route)}`;
    await channel.change(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, encodeRoute(route), what);
  } catch (thrown) {
    if (!(thrown instanceof SystemError && thrown.errno === "EEXIST")) throw thrown;
  }
}

function parseRoute(route: Route, links: readonly Link[]): LinkRoute {
  const isDefault = route.dest === "" || route.dest === "default";
  const prefix = isDefault ? undefined : parsePrefix(route.dest);
  const gateway = route.gateway === "" ? undefined : parseIp(route.gateway);
  const family = prefix?.family ?? gateway?.family ?? (route.family === IP_V6 ? "v6" : "v4");
  const address = (text: string): Uint8Array | undefined => parseOptional(text, family, `route ${route.dest}`);
  return {
    family,
    table: route.table === 0 ? RT_TABLE_MAIN : route.table,
    destination: prefix === undefined || prefix.prefixLength === 0 ? undefined : prefix,
    type: route.type === 0 ? RTN_UNICAST : route.type,
    gateway: address(route.gateway),
    source: address(route.source),
    linkIndex: route.device === "" ? undefined : linkNamed(route.device, links).index,
    scope: route.scope,
    flags: route.flags,
    protocol: route.protocol === 0 ? RTPROT_STATIC : route.protocol,
    metric: route.metric,
    tos: route.tos,
    preference: route.preference,
    expires: route.expires,
    metrics: new Map([
      ...(route.mtu === 0 ? [] : [[RTAX_MTU, route.mtu] as const]),
      ...route.metrics.map(({ kind, value }) => [kind, value] as const),
    ]),
    hops: route.nextHops.map((hop) => {
      if (hop.weight < 1 || hop.weight > 256) {
        throw new HearthError("invalid-argument", `add route ${route.dest}: next hop of weight ${hop.weight}`);
      }
      const { index } = linkNamed(hop.device, links);
      return { gateway: address(hop.gateway), linkIndex: index, weight: hop.weight, flags: hop.flags };
    }),
  };
}

function parseNeighbour(neighbour: ARPNeighbor, links: readonly Link[]): Parameters<typeof encodeNeighbour>[0] {
  if (neighbour.toIPAddress === undefined) {
    throw new HearthError("invalid-argument", `add neighbour of ${neighbour.device}: no address`);
  }
  return {
    linkIndex: linkNamed(neighbour.device, links).index,
    address: parseIp(neighbour.toIPAddress.address),
    mac: parseMac(neighbour.lladdr),
    state: neighbour.state === 0 ? NUD_PERMANENT : neighbour.state,
    flags: neighbour.flags,
  };
}

function linkNamed(name: string, links: readonly Link[]): Link {
  const link = links.find((candidate) => candidate.name === name);
  if (link === undefined) throw new HearthError("not-found", `use interface ${name}: it does not exist`);
  return link;
}

/** Of the main table. */
async function describeRoutes(
  channel: RouteChannel,
  links: readonly Link[],
): Promise<MessageInitShape<typeof RoutesSchema>> {
  const text = (bytes: Uint8Array | undefined): string => (bytes === undefined ? "" : formatIp(bytes));
  const nameOf = (linkIndex: number | undefined): string => links.find(({ index }) => index === linkIndex)?.name ?? "";
  const routes = (await channel.routes()).filter(({ table }) => table === RT_TABLE_MAIN);
  return {
    Routes: routes.map((route) => ({
      dest: route.destination === undefined ? "" : describeDestination(route),
      gateway: text(route.gateway),
      device: nameOf(route.linkIndex),
      source: text(route.source),
      scope: route.scope,
      family: route.family === "v4" ? IP_V4 : IP_V6,
      flags: route.flags,
      mtu: route.metrics.get(RTAX_MTU) ?? 0,
      metric: route.metric,
      type: route.type,
      tos: route.tos,
      protocol: route.protocol,
      preference: route.preference,
      metrics: [...route.metrics].filter(([kind]) => kind !== RTAX_MTU).map(([kind, value]) => ({ kind, value })),
      nextHops: route.hops.map((hop) => ({
        gateway: text(hop.gateway),
        device: nameOf(hop.linkIndex),
        weight: hop.weight,
        flags: hop.flags,
      })),
    })),
  };
}

function describeDestination({ destination }: LinkRoute): string {
  return destination === undefined ? "default" : `${formatIp(destination.bytes)}/${destination.prefixLength}`;
}

function describeInterface(link: Link, addresses: readonly LinkAddress[]): InterfaceInit {
  return {
    device: link.name,
    name: link.name,
    hwAddr: formatMac(link.mac),
    mtu: BigInt(link.mtu),
    rawFlags: link.flags,
    IPAddresses: addresses
      .filter(({ linkIndex }) => linkIndex === link.index)
      .map(({ address, prefixLength, peer, broadcast, scope, label, flags }) => ({
        family: address.family === "v4" ? IP_V4 : IP_V6,
        address: formatIp(address.bytes),
        mask: String(prefixLength),
        peer: peer === undefined ? "" : formatIp(peer),
        broadcast: broadcast === undefined ? "" : formatIp(broadcast),
        scope,
        label,
        flags,
      })),
  };
}
