/** What a network namespace holds, as the agent protocol says it. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type {
  ARPNeighborSchema,
  IPAddressSchema,
  RouteSchema,
  RuleSchema,
  IPFamily as WireFamily,
} from "../gen/types_pb.ts";
import { IPFamily } from "../gen/types_table.ts";
import type { InterfaceAddress } from "../network/interface-view.ts";
import type { NetworkRoute } from "../network/route-view.ts";
import type { Neighbour } from "../network/routing-view.ts";
import type { NetworkRule } from "../network/rule-view.ts";

/** Source: rtnetlink(7), ndm_state and ndm_flags; linux/rtnetlink.h. */
const NUD_PERMANENT = 0x80;
const NTF_ROUTER = 0x80;
const RTNH_F_ONLINK = 4;

export function wireAddress({
  family,
  prefixLength,
  ...rest
}: InterfaceAddress): MessageInitShape<typeof IPAddressSchema> {
  return { ...rest, family: wireFamily(family), mask: String(prefixLength) };
}

export function wireRoute(route: NetworkRoute): MessageInitShape<typeof RouteSchema> {
  return {
    dest: route.destination,
    gateway: route.gateway,
    device: route.device,
    source: route.source,
    scope: route.scope,
    family: wireFamily(route.family),
    flags: wireFlags(route),
    mtu: route.mtu,
    metric: route.metric,
    type: route.type,
    tos: route.tos,
    protocol: route.protocol,
    table: route.table,
    preference: route.preference,
    expires: route.expiresS,
    metrics: [...route.metrics],
    nextHops: route.nextHops.map((hop) => ({
      gateway: hop.gateway,
      device: hop.device,
      weight: hop.weight,
      flags: wireFlags(hop),
    })),
  };
}

function wireFlags({ onLink }: { readonly onLink: boolean }): number {
  return onLink ? RTNH_F_ONLINK : 0;
}

function wireFamily(family: "v4" | "v6"): WireFamily {
  return family === "v4" ? IPFamily.v4 : IPFamily.v6;
}

export function wireRule(rule: NetworkRule): MessageInitShape<typeof RuleSchema> {
  return { ...rule, family: wireFamily(rule.family) };
}

export function wireNeighbour(entry: Neighbour): MessageInitShape<typeof ARPNeighborSchema> {
  return {
    toIPAddress: { family: wireFamily(entry.family), address: entry.address },
    device: entry.device,
    lladdr: entry.mac,
    state: NUD_PERMANENT,
    flags: entry.isRouter ? NTF_ROUTER : 0,
  };
}
