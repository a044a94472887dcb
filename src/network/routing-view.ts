/** Where a network namespace sends packets, read from iproute2's JSON: routes, rules and permanent neighbours. Pure. */
import * as v from "valibot";
import { parseIpJson, refuseOtherKeys } from "./ip-json.ts";
import { devicesOf, type NetworkRoute, parseRoutes } from "./route-view.ts";
import { type NetworkRule, parseRules } from "./rule-view.ts";

export interface Neighbour {
  readonly family: "v4" | "v6";
  readonly address: string;
  readonly device: string;
  readonly mac: string;
  /** It says of itself that it is a router, as IPv6's do. */
  readonly isRouter: boolean;
}

export interface RoutingView {
  readonly routes: readonly NetworkRoute[];
  /** The kernel's own included. */
  readonly rules: readonly NetworkRule[];
  readonly neighbours: readonly Neighbour[];
}

export interface RoutingText {
  /** `ip -N -json -4 route show table all` */
  readonly routes4: string;
  readonly routes6: string;
  /** `ip -N -json -details -4 rule show` */
  readonly rules4: string;
  readonly rules6: string;
  /** `ip -json neigh show nud permanent` */
  readonly neighbours: string;
}

const LOOPBACK = "lo";

const NeighbourSchema = v.looseObject({
  dst: v.string(),
  dev: v.optional(v.string(), ""),
  lladdr: v.optional(v.string(), ""),
  router: v.optional(v.null()),
});

/** Beside those carried: who found it, and where else it is known. */
const NEIGHBOUR_KEYS: ReadonlySet<string> = new Set([
  ...Object.keys(NeighbourSchema.entries),
  ...["state", "extern_learn", "offload", "protocol"],
]);

/**
 * What leads to `interfaces` and loopback, by name, or nowhere. Fails with unimplemented for what a guest cannot have, and with
 * internal when ip's answer is not understood.
 */
export function parseRouting(text: RoutingText, interfaces: ReadonlySet<string>): RoutingView {
  const routes = [...parseRoutes(text.routes4, "v4"), ...parseRoutes(text.routes6, "v6")];
  const rules = [...parseRules(text.rules4, "v4"), ...parseRules(text.rules6, "v6")];
  const neighbours = parseIpJson(v.array(NeighbourSchema), text.neighbours, "neighbours")
    .filter((entry) => entry.lladdr !== "" && interfaces.has(entry.dev))
    .map(parseNeighbour);
  const leadsToKnown = (route: NetworkRoute): boolean =>
    devicesOf(route).every((device) => device === LOOPBACK || interfaces.has(device));
  return { routes: routes.filter(leadsToKnown), rules, neighbours };
}

function parseNeighbour(entry: v.InferOutput<typeof NeighbourSchema>): Neighbour {
  refuseOtherKeys(entry, NEIGHBOUR_KEYS, `neighbour ${entry.dst} of ${entry.dev}`);
  const { dst, dev, lladdr, router } = entry;
  return { family: familyOf(dst), address: dst, device: dev, mac: lladdr, isRouter: router === null };
}

function familyOf(address: string): "v4" | "v6" {
  return address.includes(":") ? "v6" : "v4";
}
