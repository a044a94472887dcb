/** Rules of a network namespace that choose among tables of routes, read from `ip -N -json -details rule show`. Pure. */
import * as v from "valibot";
import { notSupported, numeric, parseIpJson, refuseOtherKeys, u32 } from "./ip-json.ts";

/** Both included. */
export interface NumberRange {
  readonly first: number;
  readonly last: number;
}

export interface NetworkRule {
  readonly family: "v4" | "v6";
  readonly priority: number;
  /** Source: linux/fib_rules.h, FR_ACT_*. */
  readonly action: number;
  /** 0: it leads to none. */
  readonly table: number;
  /** Who made it. Source: rtnetlink(7), rtm_protocol. */
  readonly protocol: number;
  /** It holds for all packets but those that it describes. */
  readonly inverted: boolean;
  /** CIDR; empty: any. */
  readonly source: string;
  readonly destination: string;
  /** 0: any. */
  readonly tos: number;
  /** Names of interfaces, which need not exist; empty: any. */
  readonly inputDevice: string;
  readonly outputDevice: string;
  readonly mark: number;
  /** Bits of the mark that count; 0: none do. */
  readonly markMask: number;
  /** IPPROTO_*; 0: any. */
  readonly ipProtocol: number;
  readonly sourcePorts: NumberRange | undefined;
  readonly destinationPorts: NumberRange | undefined;
  readonly userIds: NumberRange | undefined;
  /** Routes with a shorter prefix are passed over; 0: none are. */
  readonly prefixLengthMin: number;
  /** 0: it leads to no other rule. */
  readonly gotoPriority: number;
}

const ANY = "all";
const FR_ACT_TO_TBL = 1;
const FR_ACT_GOTO = 2;
const FR_ACT_NOP = 3;
const ALL_BITS = 0xffffffff;

const RuleSchema = v.looseObject({
  priority: u32,
  not: v.optional(v.null()),
  src: v.optional(v.string(), ANY),
  srclen: v.optional(v.number()),
  dst: v.optional(v.string(), ANY),
  dstlen: v.optional(v.number()),
  tos: v.optional(numeric, "0"),
  fwmark: v.optional(numeric, "0"),
  fwmask: v.optional(numeric),
  iif: v.optional(v.string(), ""),
  oif: v.optional(v.string(), ""),
  uid_start: v.optional(u32),
  uid_end: v.optional(u32),
  ipproto: v.optional(
    v.pipe(
      v.string(),
      v.transform((text) => Number(text.replace(/^ipproto-/, ""))),
      v.integer(),
    ),
    "0",
  ),
  sport: v.optional(u32),
  sport_start: v.optional(u32),
  sport_end: v.optional(u32),
  dport: v.optional(u32),
  dport_start: v.optional(u32),
  dport_end: v.optional(u32),
  table: v.optional(numeric, "0"),
  suppress_prefixlen: v.optional(u32),
  protocol: v.optional(numeric, "0"),
  action: v.optional(numeric),
  goto: v.optional(u32),
  nop: v.optional(v.null()),
});

/** Beside those carried: whether what it names is there, which the guest's kernel finds out itself. */
const RULE_KEYS: ReadonlySet<string> = new Set([
  ...Object.keys(RuleSchema.entries),
  ...["iif_detached", "oif_detached", "unresolved"],
]);

/** All of them, the kernel's own included. Fails with unimplemented for what cannot be carried. */
export function parseRules(text: string, family: "v4" | "v6"): NetworkRule[] {
  return parseIpJson(v.array(RuleSchema), text, `${family} rules`).map((entry) => {
    refuseOtherKeys(entry, RULE_KEYS, `rule ${entry.priority}`);
    const { fwmark, fwmask, goto } = entry;
    return {
      family,
      priority: entry.priority,
      action: actionOf(entry),
      table: entry.table,
      protocol: entry.protocol,
      inverted: entry.not === null,
      source: prefixOf(entry.src, entry.srclen, family),
      destination: prefixOf(entry.dst, entry.dstlen, family),
      tos: entry.tos,
      inputDevice: entry.iif,
      outputDevice: entry.oif,
      mark: fwmark,
      // One that compares with 0 is written with its bits.
      markMask: fwmask ?? (fwmark === 0 ? 0 : ALL_BITS),
      ipProtocol: entry.ipproto,
      sourcePorts: rangeOf(entry.sport ?? entry.sport_start, entry.sport ?? entry.sport_end),
      destinationPorts: rangeOf(entry.dport ?? entry.dport_start, entry.dport ?? entry.dport_end),
      userIds: rangeOf(entry.uid_start, entry.uid_end),
      prefixLengthMin: entry.suppress_prefixlen === undefined ? 0 : entry.suppress_prefixlen + 1,
      gotoPriority: goto ?? 0,
    };
  });
}

function actionOf({ priority, action, goto, nop, table }: v.InferOutput<typeof RuleSchema>): number {
  if (goto !== undefined) return FR_ACT_GOTO;
  if (nop === null) return FR_ACT_NOP;
  if (action !== undefined) return action;
  if (table === 0) throw notSupported(`rule ${priority}`, "an action that iproute2 does not name");
  return FR_ACT_TO_TBL;
}

function prefixOf(address: string, length: number | undefined, family: "v4" | "v6"): string {
  return address === ANY ? "" : `${address}/${length ?? (family === "v4" ? 32 : 128)}`;
}

function rangeOf(first: number | undefined, last: number | undefined): NumberRange | undefined {
  return first === undefined || last === undefined ? undefined : { first, last };
}

const LOCAL_AND_MAIN = [
  { priority: 0, table: "255", protocol: "2" },
  { priority: 32766, table: "254", protocol: "2" },
];
const DEFAULT = { priority: 32767, table: "253", protocol: "2" };

/** Those that every network namespace begins with. */
export const FIRST_RULES: readonly NetworkRule[] = [
  ...parseRules(JSON.stringify([...LOCAL_AND_MAIN, DEFAULT]), "v4"),
  ...parseRules(JSON.stringify(LOCAL_AND_MAIN), "v6"),
];
