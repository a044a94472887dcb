/** Messages about rules of routing policy. Source: linux/fib_rules.h, ip-rule(8). */
import { cString } from "../../../sys/libc.ts";
import { u32, withAttributes } from "../../../sys/netlink-message.ts";
import type { Family, IpPrefix } from "./address.ts";
import { familyNumber } from "./rtnetlink.ts";

export const RTM_NEWRULE = 32;
export const RTM_DELRULE = 33;

const FRA_DST = 1;
const FRA_SRC = 2;
const FRA_IIFNAME = 3;
const FRA_GOTO = 4;
const FRA_PRIORITY = 6;
const FRA_FWMARK = 10;
const FRA_SUPPRESS_PREFIXLEN = 14;
const FRA_TABLE = 15;
const FRA_FWMASK = 16;
const FRA_OIFNAME = 17;
const FRA_UID_RANGE = 20;
const FRA_PROTOCOL = 21;
const FRA_IP_PROTO = 22;
const FRA_SPORT_RANGE = 23;
const FRA_DPORT_RANGE = 24;
const FIB_RULE_INVERT = 0x2;
/** struct fib_rule_hdr. */
const RULE_BYTES = 12;

export interface RuleRange {
  readonly first: number;
  readonly last: number;
}

/** What is 0, empty or undefined does not count; a priority of 0 does. */
export interface Rule {
  readonly family: Family;
  readonly priority: number;
  /** FR_ACT_* */
  readonly action: number;
  readonly table: number;
  readonly protocol: number;
  readonly inverted: boolean;
  readonly source: IpPrefix | undefined;
  readonly destination: IpPrefix | undefined;
  readonly tos: number;
  readonly inputDevice: string;
  readonly outputDevice: string;
  readonly mark: number;
  readonly markMask: number;
  readonly ipProtocol: number;
  readonly sourcePorts?: RuleRange | undefined;
  readonly destinationPorts?: RuleRange | undefined;
  readonly userIds?: RuleRange | undefined;
  /** Routes with a shorter prefix are passed over. */
  readonly prefixLengthMin: number;
  readonly gotoPriority: number;
}

export function encodeRule(rule: Rule): Uint8Array {
  const fixed = new Uint8Array(RULE_BYTES);
  const view = new DataView(fixed.buffer);
  view.setUint8(0, familyNumber(rule.family));
  view.setUint8(1, rule.destination?.prefixLength ?? 0);
  view.setUint8(2, rule.source?.prefixLength ?? 0);
  view.setUint8(3, rule.tos);
  view.setUint8(7, rule.action);
  view.setUint32(8, rule.inverted ? FIB_RULE_INVERT : 0, true);
  const whereSet = (value: number): Uint8Array | undefined => (value === 0 ? undefined : u32(value));
  const whereNamed = (name: string): Uint8Array | undefined => (name === "" ? undefined : cString(name));
  const { markMask, userIds, prefixLengthMin } = rule;
  return withAttributes(fixed, [
    [FRA_PRIORITY, u32(rule.priority)],
    [FRA_TABLE, whereSet(rule.table)],
    [FRA_PROTOCOL, Uint8Array.of(rule.protocol)],
    [FRA_DST, rule.destination?.bytes],
    [FRA_SRC, rule.source?.bytes],
    [FRA_IIFNAME, whereNamed(rule.inputDevice)],
    [FRA_OIFNAME, whereNamed(rule.outputDevice)],
    [FRA_FWMARK, markMask === 0 ? undefined : u32(rule.mark)],
    [FRA_FWMASK, whereSet(markMask)],
    [FRA_IP_PROTO, rule.ipProtocol === 0 ? undefined : Uint8Array.of(rule.ipProtocol)],
    [FRA_SPORT_RANGE, portRange(rule.sourcePorts)],
    [FRA_DPORT_RANGE, portRange(rule.destinationPorts)],
    [FRA_UID_RANGE, userIds && Uint8Array.of(...u32(userIds.first), ...u32(userIds.last))],
    [FRA_SUPPRESS_PREFIXLEN, prefixLengthMin === 0 ? undefined : u32(prefixLengthMin - 1)],
    [FRA_GOTO, whereSet(rule.gotoPriority)],
  ]);
}

function portRange(range: RuleRange | undefined): Uint8Array | undefined {
  if (range === undefined) return undefined;
  const bytes = new Uint8Array(4);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, range.first, true);
  view.setUint16(2, range.last, true);
  return bytes;
}
