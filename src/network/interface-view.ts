/** Interfaces of a network namespace with their addresses, read from iproute2's JSON. Pure. */
import * as v from "valibot";
import { notSupported, parseIpJson, refuseOtherKeys } from "./ip-json.ts";

export interface InterfaceAddress {
  readonly family: "v4" | "v6";
  readonly address: string;
  /** Of the address, or of the peer's. */
  readonly prefixLength: number;
  /** The other end's, where the address belongs to a link with one; else empty. */
  readonly peer: string;
  /** Empty without one. */
  readonly broadcast: string;
  /** Source: rtnetlink(7), rtm_scope. */
  readonly scope: number;
  /** IPv4 only: the interface's name, or that and ":…". */
  readonly label: string;
  /** IFA_F_* of linux/if_addr.h that are carried: home, deprecated, noprefixroute, autojoin. */
  readonly flags: number;
}

export interface NetworkInterface {
  readonly name: string;
  /** Tells it from another one that has taken its name. */
  readonly index: number;
  /** Kind as `ip -details` tells: "veth", "macvlan", …; empty for a physical one. */
  readonly kind: string;
  /** Of a macvlan ("bridge", …) or an ipvlan ("l2", "l3", "l3s"); empty for other kinds. */
  readonly mode: string;
  readonly mac: string;
  readonly mtu: number;
  /** Administratively: whoever configures an interface does this last, and renames it before. */
  readonly isUp: boolean;
  /**
   * IFF_* of netdevice(7) that are carried: promiscuous, all multicast packets, and NOARP: neighbours are not asked for
   * their hardware addresses, because an ipvlan in mode L3 would drop the questions.
   */
  readonly flags: number;
  readonly addresses: readonly InterfaceAddress[];
}

export interface InterfacesView {
  readonly interfaces: readonly NetworkInterface[];
  /** Names of interfaces that are up and carry no Ethernet frames, as a tun or a tunnel does not. */
  readonly otherInterfaces: readonly string[];
}

/** Source: rtnetlink(7), rtm_scope. Others are told by their numbers. */
const SCOPES: Readonly<Record<string, number>> = { global: 0, site: 200, link: 253, host: 254 };

const AddressSchema = v.looseObject({
  family: v.string(),
  local: v.optional(v.string()),
  address: v.optional(v.string(), ""),
  prefixlen: v.number(),
  broadcast: v.optional(v.string(), ""),
  scope: v.pipe(
    v.optional(v.string(), "global"),
    v.transform((scope) => SCOPES[scope] ?? Number(scope)),
    v.integer(),
  ),
  label: v.optional(v.string(), ""),
  dadfailed: v.optional(v.boolean(), false),
  home: v.optional(v.boolean(), false),
  deprecated: v.optional(v.boolean(), false),
  noprefixroute: v.optional(v.boolean(), false),
  autojoin: v.optional(v.boolean(), false),
});

/**
 * What an address is said to be besides: how it came about, and what the guest's kernel finds out itself. Its life in the
 * guest is the interface's. The metric is that of the route it implies, which is carried.
 */
const ADDRESS_KEYS: ReadonlySet<string> = new Set([
  ...Object.keys(AddressSchema.entries),
  ...["valid_life_time", "preferred_life_time", "dynamic", "temporary", "mngtmpaddr", "stable-privacy", "protocol"],
  ...["permanent", "secondary", "tentative", "optimistic", "nodad", "metric"],
]);

const LinkSchema = v.looseObject({
  ifname: v.string(),
  ifindex: v.number(),
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

/**
 * From `ip -json -details address show`. Loopback is left out, and what is down and no Ethernet. Fails with unimplemented for
 * addresses that a guest cannot have, and with internal when ip's answer is not understood.
 */
export function parseInterfaces(text: string): InterfacesView {
  const links = parseIpJson(v.array(LinkSchema), text, "addresses");
  const otherInterfaces = links
    .filter((link) => link.link_type !== "ether" && link.link_type !== "loopback" && link.flags.includes("UP"))
    .map((link) => link.ifname);
  const interfaces = links
    .filter((link) => link.link_type === "ether")
    .map((link) => {
      const mode = link.linkinfo?.info_data?.mode;
      return {
        name: link.ifname,
        index: link.ifindex,
        kind: link.linkinfo?.info_kind ?? "",
        mode: typeof mode === "string" ? mode.trim() : "",
        mac: link.address,
        mtu: link.mtu,
        isUp: link.flags.includes("UP"),
        flags: bitsOf(LINK_FLAGS, (name) => link.flags.includes(name)),
        addresses: addressesOf(link),
      };
    });
  return { interfaces, otherInterfaces };
}

/** Of all interfaces in `text`: `ip -json address show …`. */
export function parseAddresses(text: string): InterfaceAddress[] {
  return parseIpJson(v.array(LinkSchema), text, "addresses").flatMap(addressesOf);
}

/** In the order in which they have to be added: IPv6's are listed with the last one first. */
function addressesOf({ ifname, address: mac, addr_info }: v.InferOutput<typeof LinkSchema>): InterfaceAddress[] {
  const addresses = addr_info.flatMap((entry) => parseAddress(entry, ifname, mac));
  const of = (family: "v4" | "v6"): InterfaceAddress[] => addresses.filter((address) => address.family === family);
  return [...of("v4"), ...of("v6").reverse()];
}

/**
 * One that somebody else has is none, and one that was not asked for is an empty entry. The link-local IPv6 address that
 * follows from `mac` is the guest's own to make.
 */
function parseAddress(entry: object, device: string, mac: string): InterfaceAddress[] {
  if (Object.keys(entry).length === 0) return [];
  const parsed = v.safeParse(AddressSchema, entry);
  if (!parsed.success) throw notSupported(`address of ${device}`, JSON.stringify(entry));
  if (parsed.output.local === undefined || parsed.output.dadfailed) return [];
  const { family, local, scope, ...rest } = parsed.output;
  if (family !== "inet" && family !== "inet6") return [];
  if (family === "inet6" && scope === RT_SCOPE_LINK && local === linkLocalAddress(mac)) return [];
  refuseOtherKeys(parsed.output, ADDRESS_KEYS, `address ${local} of ${device}`);
  return [
    {
      family: family === "inet" ? "v4" : "v6",
      address: local,
      prefixLength: rest.prefixlen,
      peer: rest.address,
      broadcast: rest.broadcast,
      scope,
      label: rest.label,
      flags: bitsOf(ADDRESS_FLAGS, (name) => rest[name]),
    },
  ];
}

const RT_SCOPE_LINK = 253;
/** Source: linux/if.h, linux/if_addr.h. */
const LINK_FLAGS = { NOARP: 0x80, PROMISC: 0x100, ALLMULTI: 0x200 } as const;
const ADDRESS_FLAGS = { home: 0x10, deprecated: 0x20, noprefixroute: 0x200, autojoin: 0x400 } as const;

function bitsOf<Name extends string>(bits: Readonly<Record<Name, number>>, isSet: (name: Name) => boolean): number {
  let all = 0;
  for (const name in bits) if (isSet(name)) all |= bits[name];
  return all;
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
  const filters = parseIpJson(FiltersSchema, text, "filters");
  const targets = filters.flatMap(({ options }) => options?.actions.map((action) => action.to_dev) ?? []);
  // iproute2's name of an interface without a number.
  return targets.length > 0 && targets.every((target) => target === "*");
}
