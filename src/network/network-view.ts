/** What a network namespace holds, read from iproute2's JSON: interfaces, routes and permanent neighbours. Pure. */
import * as v from "valibot";
import { HearthError } from "../errors.ts";

export interface InterfaceAddress {
  readonly family: "v4" | "v6";
  readonly address: string;
  readonly prefixLength: number;
}

export interface NetworkInterface {
  readonly name: string;
  /** Kind as `ip -details` tells: "veth", "macvlan", …; empty for a physical one. */
  readonly kind: string;
  /** Of a macvlan ("bridge", …) or an ipvlan ("l2", "l3", "l3s"); empty for other kinds. */
  readonly mode: string;
  readonly mac: string;
  readonly mtu: number;
  /** Administratively: whoever configures an interface does this last, and renames it before. */
  readonly isUp: boolean;
  /** Neighbours are not asked for their hardware addresses: an ipvlan in mode L3 would drop the questions. */
  readonly noArp: boolean;
  readonly addresses: readonly InterfaceAddress[];
}

export interface NetworkRoute {
  readonly family: "v4" | "v6";
  /** CIDR; empty for the default route. */
  readonly destination: string;
  readonly gateway: string;
  readonly device: string;
  readonly source: string;
  /** Source: rtnetlink(7), rtm_scope. */
  readonly scope: number;
  /** The gateway is on the link, whatever the other routes say. */
  readonly onLink: boolean;
  /** Of packets that take it; 0: the interface's. */
  readonly mtu: number;
}

export interface Neighbour {
  readonly family: "v4" | "v6";
  readonly address: string;
  readonly device: string;
  readonly mac: string;
}

export interface NetworkView {
  readonly interfaces: readonly NetworkInterface[];
  /** Names of interfaces that are up and carry no Ethernet frames, as a tun or a tunnel does not. */
  readonly otherInterfaces: readonly string[];
  readonly routes: readonly NetworkRoute[];
  readonly neighbours: readonly Neighbour[];
}

const AddressSchema = v.looseObject({
  family: v.string(),
  local: v.optional(v.string()),
  prefixlen: v.number(),
  scope: v.optional(v.string()),
});

const LinkSchema = v.looseObject({
  ifname: v.string(),
  link_type: v.optional(v.string(), ""),
  flags: v.optional(v.array(v.string()), []),
  address: v.optional(v.string(), ""),
  mtu: v.optional(v.number(), 1500),
  linkinfo: v.optional(
    v.looseObject({
      info_kind: v.optional(v.string(), ""),
      info_data: v.optional(v.looseObject({ mode: v.optional(v.unknown()) })),
    }),
  ),
  addr_info: v.optional(v.array(v.looseObject({})), []),
});

const RouteSchema = v.looseObject({
  dst: v.string(),
  gateway: v.optional(v.string(), ""),
  dev: v.optional(v.string(), ""),
  prefsrc: v.optional(v.string(), ""),
  scope: v.optional(v.string(), "global"),
  type: v.optional(v.string(), "unicast"),
  flags: v.optional(v.array(v.string()), []),
  metrics: v.optional(v.array(v.looseObject({ mtu: v.optional(v.number(), 0) })), []),
});

const NeighbourSchema = v.looseObject({
  dst: v.string(),
  dev: v.optional(v.string(), ""),
  lladdr: v.optional(v.string(), ""),
});

/** Source: rtnetlink(7). */
const SCOPES: Readonly<Record<string, number>> = { global: 0, universe: 0, site: 200, link: 253, host: 254 };

export interface NetworkText {
  /** `ip -json -details address show` */
  readonly addresses: string;
  /** `ip -json -4 route show table main` */
  readonly routes4: string;
  readonly routes6: string;
  /** `ip -json neigh show nud permanent` */
  readonly neighbours: string;
}

/** Loopback is left out, and what is down and no Ethernet. Fails with internal when ip's answer is not understood. */
export function parseNetworkView(text: NetworkText): NetworkView {
  const links = parseJson(v.array(LinkSchema), text.addresses, "addresses");
  const otherInterfaces = links
    .filter((link) => link.link_type !== "ether" && link.link_type !== "loopback" && link.flags.includes("UP"))
    .map((link) => link.ifname);
  const interfaces = links
    .filter((link) => link.link_type === "ether")
    .map((link) => {
      const mode = link.linkinfo?.info_data?.mode;
      return {
        name: link.ifname,
        kind: link.linkinfo?.info_kind ?? "",
        mode: typeof mode === "string" ? mode.trim() : "",
        mac: link.address,
        mtu: link.mtu,
        isUp: link.flags.includes("UP"),
        noArp: link.flags.includes("NOARP"),
        addresses: link.addr_info.flatMap((entry) => parseAddress(entry, link.address)),
      };
    });
  const known = new Set(interfaces.map((entry) => entry.name));
  const routes = [...parseRoutes(text.routes4, "v4"), ...parseRoutes(text.routes6, "v6")];
  const neighbours = parseJson(v.array(NeighbourSchema), text.neighbours, "neighbours")
    .filter((entry) => entry.lladdr !== "" && known.has(entry.dev))
    .map((entry) => ({ family: familyOf(entry.dst), address: entry.dst, device: entry.dev, mac: entry.lladdr }));
  return { interfaces, otherInterfaces, routes: routes.filter((route) => known.has(route.device)), neighbours };
}

/** Of all interfaces in `text`: `ip -json address show …`. */
export function parseAddresses(text: string): InterfaceAddress[] {
  const links = parseJson(v.array(LinkSchema), text, "addresses");
  return links.flatMap((link) => link.addr_info.flatMap((entry) => parseAddress(entry, link.address)));
}

/** The link-local IPv6 address that follows from `mac` is the guest's own to make. */
function parseAddress(entry: unknown, mac: string): InterfaceAddress[] {
  const parsed = v.safeParse(AddressSchema, entry);
  if (!parsed.success || parsed.output.local === undefined) return [];
  const { family, local, prefixlen, scope } = parsed.output;
  if (family === "inet") return [{ family: "v4", address: local, prefixLength: prefixlen }];
  if (family !== "inet6" || (scope === "link" && local === linkLocalAddress(mac))) return [];
  return [{ family: "v6", address: local, prefixLength: prefixlen }];
}

/** As the kernel makes it by default. Source: RFC 4291, appendix A. */
function linkLocalAddress(mac: string): string | undefined {
  const [a, b, c, d, e, f] = mac.split(":").map((byte) => Number.parseInt(byte, 16));
  if (a === undefined || b === undefined || c === undefined) return undefined;
  if (d === undefined || e === undefined || f === undefined) return undefined;
  const groups = [((a ^ 0x02) << 8) | b, (c << 8) | 0xff, 0xfe00 | d, (e << 8) | f];
  // A URL's host is written in the shortest form, as ip writes it.
  const { hostname } = new URL(`http://[fe80:0:0:0:${groups.map((group) => group.toString(16)).join(":")}]`);
  return hostname.slice(1, -1);
}

/**
 * Whole: the guest's table becomes what this says, the routes that addresses imply included. Those without a gateway come
 * first, because a gateway has to be reachable when its route is added.
 */
function parseRoutes(text: string, family: "v4" | "v6"): NetworkRoute[] {
  return parseJson(v.array(RouteSchema), text, `${family} routes`)
    .filter((route) => route.type === "unicast" && route.dev !== "" && !route.dst.startsWith("fe80::"))
    .map((route) => ({
      family,
      destination: destinationOf(route.dst, family),
      gateway: route.gateway,
      device: route.dev,
      source: route.prefsrc,
      scope: SCOPES[route.scope] ?? 0,
      onLink: route.flags.includes("onlink"),
      mtu: route.metrics.find(({ mtu }) => mtu > 0)?.mtu ?? 0,
    }))
    .sort((left, right) => Number(left.gateway !== "") - Number(right.gateway !== ""));
}

function destinationOf(destination: string, family: "v4" | "v6"): string {
  if (destination === "default") return "";
  if (destination.includes("/")) return destination;
  return `${destination}/${family === "v4" ? 32 : 128}`;
}

/** Kinds whose packets tc can redirect to a tap; "tun" is a tap here, because it carries Ethernet frames. */
const CONNECTABLE_KINDS: ReadonlySet<string> = new Set(["veth", "macvlan", "ipvlan", "dummy", "bridge", "tun", ""]);

/** Why packets of an interface cannot be redirected; undefined when they can. */
export function obstacleTo({ kind, mode }: NetworkInterface): string | undefined {
  if (!CONNECTABLE_KINDS.has(kind)) return `kind ${kind} is not supported`;
  // Source: Linux drivers/net/ipvlan/ipvlan_l3s.c.
  if (kind === "ipvlan" && mode === "l3s") return "mode l3s gives packets to the host's stack; l2 and l3 are supported";
  return undefined;
}

const FiltersSchema = v.array(
  v.looseObject({
    options: v.optional(
      v.looseObject({ actions: v.optional(v.array(v.looseObject({ to_dev: v.optional(v.string()) })), []) }),
    ),
  }),
);

/** True when filters redirect, and everything they redirect to is gone. `text`: `tc -json filter show dev … ingress`. */
export function isOrphanedRedirect(text: string): boolean {
  const filters = parseJson(FiltersSchema, text, "filters");
  const targets = filters.flatMap(({ options }) => options?.actions.map((action) => action.to_dev) ?? []);
  // iproute2's name of an interface without a number.
  return targets.length > 0 && targets.every((target) => target === "*");
}

function familyOf(address: string): "v4" | "v6" {
  return address.includes(":") ? "v6" : "v4";
}

function parseJson<const Schema extends v.GenericSchema>(schema: Schema, text: string, what: string) {
  let json: unknown;
  try {
    json = text.trim() === "" ? [] : JSON.parse(text);
  } catch (cause) {
    throw new HearthError("internal", `read ${what} of network namespace: ip did not answer JSON`, { cause });
  }
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  throw new HearthError("internal", `read ${what} of network namespace: ${result.issues[0].message}`);
}
