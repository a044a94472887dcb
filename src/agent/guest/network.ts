/** The guest's network as the agent protocol sees it: interfaces by hardware address, addresses, routes, neighbours. */
import { writeFileSync } from "node:fs";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { HearthError, SystemError, toHearthError } from "../../errors.ts";
import type { ARPNeighbors, InterfacesSchema, RoutesSchema } from "../../gen/agent_pb.ts";
import type { ARPNeighbor, Interface, InterfaceSchema, IPAddress, IPFamily, Route } from "../../gen/types_pb.ts";
import { waitForDevice } from "./devices.ts";
import { formatIp, formatMac, parseIp, parseMac, parsePrefix, parsePrefixLength } from "./netlink/address.ts";
import { NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE } from "./netlink/message.ts";
import { RouteChannel } from "./netlink/route-channel.ts";
import {
  encodeAddress,
  encodeLink,
  encodeNeighbour,
  encodeRoute,
  IFF_LOOPBACK,
  IFF_NOARP,
  IFF_UP,
  type Link,
  type LinkAddress,
  type LinkChange,
  type LinkRoute,
  RT_SCOPE_LINK,
  RT_SCOPE_UNIVERSE,
  RTM_DELADDR,
  RTM_DELROUTE,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWNEIGH,
  RTM_NEWROUTE,
} from "./netlink/rtnetlink.ts";

/** IPFamily; not the enum itself, which would load the descriptors. */
const IP_V4: IPFamily = 0;
const IP_V6: IPFamily = 1;
/** Source: rtnetlink(7), ndm_state. */
const NUD_PERMANENT = 0x80;

type InterfaceInit = MessageInitShape<typeof InterfaceSchema>;

/**
 * Gives the link with the wanted hardware address, waiting for one that is just being plugged, exactly the name, MTU
 * and addresses that are asked for, and brings it up. Returns it as it is then.
 */
export async function updateInterface(wanted: Interface, signal: AbortSignal): Promise<InterfaceInit> {
  const mac = formatMac(parseMac(wanted.hwAddr));
  const addresses = wanted.IPAddresses.map(parseAddress);
  if (wanted.name !== "") checkInterfaceName(wanted.name);
  using channel = new RouteChannel();
  const found = await waitForLink(channel, mac, signal);
  const name = wanted.name === "" ? found.name : wanted.name;
  if (found.name !== name) await rename(channel, found, name);
  if (addresses.some(({ address }) => isLinkLocal(address.bytes))) makeNoLinkLocal(name);
  await setLink(channel, found, {
    ...(wanted.mtu === 0n ? {} : { mtu: Number(wanted.mtu) }),
    setFlags: IFF_UP | (wanted.rawFlags & IFF_NOARP),
  });
  await setAddresses(channel, found, addresses);
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

/** Routes of the main table are replaced by these: first those to what is on the link, which gateways need. */
export async function updateRoutes(wanted: readonly Route[]): Promise<MessageInitShape<typeof RoutesSchema>> {
  using channel = new RouteChannel();
  const links = await channel.links();
  const routes = wanted.map((route) => parseRoute(route, links));
  for (const old of await channel.routes()) {
    if (isReplaceable(old, links)) await deleteRoute(channel, old, links);
  }
  const ordered = [...routes.filter((route) => !route.gateway), ...routes.filter((route) => route.gateway)];
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

async function waitForLink(channel: RouteChannel, mac: string, signal: AbortSignal): Promise<Link> {
  return await waitForDevice(
    `interface ${mac}`,
    async () => (await channel.links()).find((link) => formatMac(link.mac) === mac),
    signal,
  );
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

function parseAddress({ address, mask }: IPAddress): WantedAddress {
  const ip = parseIp(address);
  return {
    address: ip,
    prefixLength: parsePrefixLength(mask === "" ? String(ip.bytes.length * 8) : mask, ip.family),
    scope: isLinkLocal(ip.bytes) ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE,
  };
}

async function setAddresses(channel: RouteChannel, link: Link, addresses: readonly WantedAddress[]): Promise<void> {
  const key = (entry: WantedAddress): string => `${formatIp(entry.address.bytes)}/${entry.prefixLength}`;
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

/** Not those of the loopback, and not the kernel's own to the link-local network, which no host sends. */
function isReplaceable(route: LinkRoute, links: readonly Link[]): boolean {
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
  const source = route.source === "" ? undefined : parseIp(route.source);
  const family = prefix?.family ?? gateway?.family ?? (route.family === IP_V6 ? "v6" : "v4");
  if ((gateway !== undefined && gateway.family !== family) || (source !== undefined && source.family !== family)) {
    throw new HearthError("invalid-argument", `add route ${route.dest}: addresses of different families`);
  }
  return {
    family,
    destination: prefix === undefined || prefix.prefixLength === 0 ? undefined : prefix,
    gateway: gateway?.bytes,
    source: source?.bytes,
    linkIndex: route.device === "" ? undefined : linkNamed(route.device, links).index,
    scope: route.scope,
    flags: route.flags,
    mtu: route.mtu,
    protocol: 0,
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

async function describeRoutes(
  channel: RouteChannel,
  links: readonly Link[],
): Promise<MessageInitShape<typeof RoutesSchema>> {
  const text = (bytes: Uint8Array | undefined): string => (bytes === undefined ? "" : formatIp(bytes));
  const routes = await channel.routes();
  return {
    Routes: routes.map((route) => ({
      dest: route.destination === undefined ? "" : describeDestination(route),
      gateway: text(route.gateway),
      device: links.find(({ index }) => index === route.linkIndex)?.name ?? "",
      source: text(route.source),
      scope: route.scope,
      family: route.family === "v4" ? IP_V4 : IP_V6,
      flags: route.flags,
      mtu: route.mtu,
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
      .map(({ address, prefixLength }) => ({
        family: address.family === "v4" ? IP_V4 : IP_V6,
        address: formatIp(address.bytes),
        mask: String(prefixLength),
      })),
  };
}
