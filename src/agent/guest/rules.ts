/** Rules that choose among tables of routes, as the agent protocol sees them. */
import { SystemError } from "../../errors.ts";
import type { IPFamily, Rule as WireRule } from "../../gen/types_pb.ts";
import { NLM_F_CREATE, NLM_F_EXCL } from "../../sys/netlink-message.ts";
import { parsePrefix } from "./netlink/address.ts";
import { RouteChannel } from "./netlink/route-channel.ts";
import { encodeRule, RTM_DELRULE, RTM_NEWRULE, type Rule } from "./netlink/rule.ts";

/** Not the enum itself, which would load the descriptors. */
const IP_V6: IPFamily = 1;

/** New ones first: at no time is there neither the old nor the new. Those that are there, or gone, already will do. */
export async function updateRules(wanted: readonly WireRule[], gone: readonly WireRule[]): Promise<void> {
  using channel = new RouteChannel();
  for (const rule of wanted) await change(channel, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule, "add");
  for (const rule of gone) await change(channel, RTM_DELRULE, 0, rule, "remove");
}

async function change(
  channel: RouteChannel,
  type: typeof RTM_NEWRULE | typeof RTM_DELRULE,
  flags: number,
  rule: WireRule,
  verb: "add" | "remove",
): Promise<void> {
  const done = type === RTM_NEWRULE ? "EEXIST" : "ENOENT";
  try {
    await channel.change(type, flags, encodeRule(parseRule(rule)), `${verb} rule ${rule.priority}`);
  } catch (thrown) {
    if (!(thrown instanceof SystemError && thrown.errno === done)) throw thrown;
  }
}

function parseRule(rule: WireRule): Rule {
  return {
    ...rule,
    family: rule.family === IP_V6 ? "v6" : "v4",
    source: rule.source === "" ? undefined : parsePrefix(rule.source),
    destination: rule.destination === "" ? undefined : parsePrefix(rule.destination),
  };
}
