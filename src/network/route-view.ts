/** Routes of a network namespace as its guest has to have them, read from `ip -N -json route show table all`. Pure. */
import * as v from "valibot";
import { notSupported, numeric, parseIpJson, refuseOtherKeys, u32 } from "./ip-json.ts";

export interface RouteNextHop {
  /** Empty: on the link. */
  readonly gateway: string;
  readonly device: string;
  /** 1 to 256: how many of the packets go this way, beside the others'. */
  readonly weight: number;
  readonly onLink: boolean;
}

export interface NetworkRoute {
  readonly family: "v4" | "v6";
  /** Source: linux/rtnetlink.h, RT_TABLE_*. */
  readonly table: number;
  /** CIDR; empty for the default route. */
  readonly destination: string;
  /** Source: rtnetlink(7), rtm_type; 1 is unicast, 6 to 9 refuse packets in their ways. */
  readonly type: number;
  readonly gateway: string;
  /** Empty for those that refuse packets and those with several next hops. */
  readonly device: string;
  readonly source: string;
  /** Source: rtnetlink(7), rtm_scope. */
  readonly scope: number;
  /** The gateway is on the link, whatever the other routes say. */
  readonly onLink: boolean;
  /** Among several to one destination the lowest is taken. */
  readonly metric: number;
  readonly tos: number;
  /** Who made it. Source: rtnetlink(7), rtm_protocol. */
  readonly protocol: number;
  /** Of a router, in IPv6. Source: RFC 4191: 0 medium, 1 high, 3 low. */
  readonly preference: number;
  /** Seconds from now; 0: it stays. */
  readonly expiresS: number;
  /** Of packets that take it; 0: the interface's. */
  readonly mtu: number;
  /** Of connections that take it. Source: linux/rtnetlink.h, RTAX_*. */
  readonly metrics: readonly { readonly kind: number; readonly value: number }[];
  /** Instead of `gateway` and `device`, when there are several. */
  readonly nextHops: readonly RouteNextHop[];
}

const flagsSchema = v.optional(v.array(v.string()), []);

const NextHopSchema = v.looseObject({
  gateway: v.optional(v.string(), ""),
  dev: v.string(),
  weight: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(256)), 1),
  flags: flagsSchema,
});

const RouteSchema = v.looseObject({
  dst: v.string(),
  type: v.optional(numeric, "1"),
  gateway: v.optional(v.string(), ""),
  dev: v.optional(v.string(), ""),
  prefsrc: v.optional(v.string(), ""),
  scope: v.optional(numeric, "0"),
  table: v.optional(numeric, "254"),
  protocol: v.optional(numeric, "3"),
  metric: v.optional(u32, 0),
  tos: v.optional(numeric, "0"),
  pref: v.optional(v.picklist(["low", "medium", "high"]), "medium"),
  expires: v.optional(v.pipe(v.number(), v.integer(), v.maxValue(0xffffffff))),
  flags: flagsSchema,
  metrics: v.optional(v.array(v.record(v.string(), v.unknown())), []),
  nexthops: v.optional(v.array(NextHopSchema), []),
});
type RouteEntry = v.InferOutput<typeof RouteSchema>;

/** Beside those carried: the number of an object that `gateway` and `dev` are taken from, and what an IPv6 route that refuses answers. */
const ROUTE_KEYS: ReadonlySet<string> = new Set([...Object.keys(RouteSchema.entries), "nhid", "error"]);
const NEXT_HOP_KEYS: ReadonlySet<string> = new Set(Object.keys(NextHopSchema.entries));
/** States of the host's interface and its hardware. */
const STATES: ReadonlySet<string> = new Set(["dead", "linkdown", "offload", "trap", "rt_offload", "rt_trap"]);
/** iproute2 gives the other ones in units of its own, or by name. */
const METRICS: Readonly<Record<string, number>> = {
  mtu: 2,
  window: 3,
  ssthresh: 6,
  cwnd: 7,
  advmss: 8,
  reordering: 9,
  hoplimit: 10,
  initcwnd: 11,
  initrwnd: 14,
  quickack: 15,
  fastopen_no_cookie: 17,
};
const RTAX_MTU = 2;
const PREFERENCES = { medium: 0, high: 1, low: 3 } as const;
/** Source: linux/rtnetlink.h. */
export const RT_TABLE_MAIN = 254;
const RTPROT_KERNEL = 2;
const RTN_BLACKHOLE = 6;
const RTN_THROW = 9;

/**
 * Whole: the guest's tables become what this says, the routes that addresses imply included. Fails with unimplemented for
 * what cannot be carried.
 */
export function parseRoutes(text: string, family: "v4" | "v6"): NetworkRoute[] {
  return parseIpJson(v.array(RouteSchema), text, `${family} routes`)
    .filter((entry) => !isGuestsOwn(entry))
    .map((entry) => parseRoute(entry, family));
}

/** Names of the interfaces that it leads to. */
export function devicesOf(route: NetworkRoute): string[] {
  return [route.device, ...route.nextHops.map(({ device }) => device)].filter((device) => device !== "");
}

/** What the kernel makes for its own addresses: in the local table, on loopback and to link-local networks. */
function isGuestsOwn({ protocol, table, dev, dst }: RouteEntry): boolean {
  return protocol === RTPROT_KERNEL && (table !== RT_TABLE_MAIN || dev === "lo" || dst.startsWith("fe80::"));
}

function parseRoute(entry: RouteEntry, family: "v4" | "v6"): NetworkRoute {
  const what = `route ${entry.dst}`;
  refuseOtherKeys(entry, ROUTE_KEYS, what);
  const refusesPackets = entry.type >= RTN_BLACKHOLE && entry.type <= RTN_THROW;
  const metrics = entry.metrics.flatMap((group) => Object.entries(group).map((metric) => parseMetric(metric, what)));
  return {
    family,
    table: entry.table,
    destination: destinationOf(entry.dst, family),
    type: entry.type,
    gateway: entry.gateway,
    // In IPv6 they have the loopback interface.
    device: refusesPackets ? "" : entry.dev,
    source: entry.prefsrc,
    scope: entry.scope,
    onLink: isOnLink(entry.flags, what),
    metric: entry.metric,
    tos: entry.tos,
    protocol: entry.protocol,
    preference: PREFERENCES[entry.pref],
    // One whose time is over, and which the kernel has not removed yet, is below zero.
    expiresS: entry.expires === undefined ? 0 : Math.max(entry.expires, 1),
    mtu: metrics.find(({ kind }) => kind === RTAX_MTU)?.value ?? 0,
    metrics: metrics.filter(({ kind }) => kind !== RTAX_MTU),
    nextHops: entry.nexthops.map((hop) => {
      refuseOtherKeys(hop, NEXT_HOP_KEYS, what);
      return { gateway: hop.gateway, device: hop.dev, weight: hop.weight, onLink: isOnLink(hop.flags, what) };
    }),
  };
}

function parseMetric([name, value]: readonly [string, unknown], what: string): { kind: number; value: number } {
  const kind = METRICS[name];
  const parsed = v.safeParse(u32, value);
  if (kind === undefined || !parsed.success) throw notSupported(what, name);
  return { kind, value: parsed.output };
}

function isOnLink(flags: readonly string[], what: string): boolean {
  const other = flags.find((flag) => flag !== "onlink" && !STATES.has(flag));
  if (other !== undefined) throw notSupported(what, other);
  return flags.includes("onlink");
}

function destinationOf(destination: string, family: "v4" | "v6"): string {
  if (destination === "default") return "";
  if (destination.includes("/")) return destination;
  return `${destination}/${family === "v4" ? 32 : 128}`;
}
