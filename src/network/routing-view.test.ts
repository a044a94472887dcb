import { expect, test } from "bun:test";
import type { NetworkRoute } from "./route-view.ts";
import { parseRouting } from "./routing-view.ts";
import { FIRST_RULES, type NetworkRule } from "./rule-view.ts";

const routes4 = JSON.stringify([
  { dst: "default", gateway: "10.4.0.1", dev: "eth0", protocol: "4", metric: 100, flags: ["linkdown"] },
  { dst: "10.4.0.0/24", dev: "eth0", protocol: "2", scope: "253", prefsrc: "10.4.0.5" },
  { dst: "169.254.1.1", dev: "eth0", scope: "253" },
  { dst: "10.9.0.0/16", dev: "gone0" },
  { dst: "default", gateway: "10.4.0.9", dev: "eth0", table: "5" },
  { dst: "10.8.0.0/16", gateway: "10.7.0.1", dev: "eth0", flags: ["onlink"], metrics: [{ mtu: 1300, initcwnd: 7 }] },
  { type: "6", dst: "10.6.0.0/16", tos: "0x10" },
  { type: "2", dst: "10.4.0.5", dev: "eth0", table: "255", protocol: "2", scope: "254", prefsrc: "10.4.0.5" },
]);
const nexthops = [
  { gateway: "fd00::1", dev: "eth0", weight: 1, flags: [] },
  { gateway: "fd00::2", dev: "eth0", weight: 4, flags: ["onlink"] },
];
const routes6 = JSON.stringify([
  { dst: "fd05::/64", nhid: 7, metric: 1024, pref: "high", expires: 500, nexthops },
  { dst: "fd05::/64", nexthops: [...nexthops, { gateway: "fd01::1", dev: "gone0" }] },
  { type: "7", dst: "fd07::/64", dev: "lo", metric: 1024, error: -101, expires: -2 },
  { dst: "fe80::/64", dev: "eth0", protocol: "2", metric: 256 },
  { dst: "fe80::5", dev: "eth0", metric: 1024 },
  { dst: "::1", dev: "lo", protocol: "2", metric: 256 },
]);
const neighbours = JSON.stringify([
  { dst: "169.254.1.1", dev: "eth0", lladdr: "ee:ee:ee:ee:ee:ee", router: null, state: ["PERMANENT"] },
]);

const nothing = { routes4: "", routes6: "", rules4: "", rules6: "", neighbours: "" };
const interfaces = new Set(["eth0"]);
const route: NetworkRoute = {
  destination: "",
  table: 254,
  ...{ family: "v4", device: "eth0", gateway: "", source: "", scope: 0, onLink: false, mtu: 0, type: 1, metric: 0 },
  ...{ tos: 0, protocol: 3, preference: 0, expiresS: 0, metrics: [], nextHops: [] },
};
const route6: NetworkRoute = { ...route, family: "v6", metric: 1024 };

test("reads every route and permanent neighbours", () => {
  const view = parseRouting({ ...nothing, routes4, routes6, neighbours }, interfaces);
  expect(view.routes).toEqual([
    { ...route, destination: "", gateway: "10.4.0.1", metric: 100, protocol: 4 },
    { ...route, destination: "10.4.0.0/24", source: "10.4.0.5", scope: 253, protocol: 2 },
    { ...route, destination: "169.254.1.1/32", scope: 253 },
    { ...route, table: 5, gateway: "10.4.0.9" },
    {
      ...{ ...route, destination: "10.8.0.0/16", gateway: "10.7.0.1", onLink: true, mtu: 1300 },
      metrics: [{ kind: 11, value: 7 }],
    },
    { ...route, destination: "10.6.0.0/16", device: "", type: 6, tos: 0x10 },
    {
      ...{ ...route6, destination: "fd05::/64", device: "", preference: 1, expiresS: 500 },
      nextHops: [
        { gateway: "fd00::1", device: "eth0", weight: 1, onLink: false },
        { gateway: "fd00::2", device: "eth0", weight: 4, onLink: true },
      ],
    },
    { ...route6, destination: "fd07::/64", device: "", type: 7, expiresS: 1 },
    { ...route6, destination: "fe80::5/128" },
  ]);
  expect(view.neighbours).toEqual([
    { family: "v4", address: "169.254.1.1", device: "eth0", mac: "ee:ee:ee:ee:ee:ee", isRouter: true },
  ]);
});

test("reads every rule", () => {
  const rules4 = [
    { priority: 0, src: "all", table: "255", protocol: "2" },
    {
      ...{
        priority: 99,
        not: null,
        src: "all",
        dst: "10.9.0.0",
        dstlen: 16,
        tos: "0x10",
        fwmark: "0x1",
        fwmask: "0xff",
      },
      ...{ iif: "d0", iif_detached: null, oif: "d1", oif_detached: null, uid_start: 0, uid_end: 10 },
      ...{ ipproto: "ipproto-6", sport_start: 10, sport_end: 20, dport: 80, table: "100", suppress_prefixlen: 0 },
    },
    { priority: 100, src: "10.4.0.5", fwmark: "0x7", goto: 200, unresolved: null },
    { priority: 101, src: "all", fwmark: "0", fwmask: "0xff", nop: null },
    { priority: 102, src: "all", action: "7", protocol: "99" },
    { priority: 32766, src: "all", table: "254", protocol: "2" },
    { priority: 32767, src: "all", table: "253", protocol: "2" },
  ];
  const rules6 = [
    { priority: 0, src: "all", table: "255", protocol: "2" },
    { priority: 100, src: "fd00::5", table: "100" },
    { priority: 32766, src: "all", table: "254", protocol: "2" },
  ];
  const { rules } = parseRouting(
    { ...nothing, rules4: JSON.stringify(rules4), rules6: JSON.stringify(rules6) },
    interfaces,
  );
  const [first] = FIRST_RULES;
  if (first === undefined) throw new Error("no rules");
  const rule: NetworkRule = { ...first, table: 0, protocol: 0 };
  expect(rules.filter(({ protocol }) => protocol === 2)).toEqual([...FIRST_RULES]);
  expect(rules.filter(({ protocol }) => protocol !== 2)).toEqual([
    {
      ...{ ...rule, priority: 99, inverted: true, destination: "10.9.0.0/16", tos: 16, mark: 1, markMask: 255 },
      ...{ inputDevice: "d0", outputDevice: "d1", userIds: { first: 0, last: 10 }, ipProtocol: 6, table: 100 },
      ...{ sourcePorts: { first: 10, last: 20 }, destinationPorts: { first: 80, last: 80 }, prefixLengthMin: 1 },
    },
    { ...rule, priority: 100, source: "10.4.0.5/32", mark: 7, markMask: 0xffffffff, action: 2, gotoPriority: 200 },
    { ...rule, priority: 101, markMask: 255, action: 3 },
    { ...rule, priority: 102, action: 7, protocol: 99 },
    { ...rule, family: "v6", priority: 100, source: "fd00::5/128", table: 100 },
  ]);
});

const via = { dst: "10.9.0.0/16", gateway: "10.4.0.1", dev: "eth0" };
test.each([
  [{ routes4: { ...via, flow: { to: "5" } } }, "route 10.9.0.0/16: flow"],
  [{ routes4: { ...via, gateway: undefined, via: { family: "inet6", host: "fd00::1" } } }, "route 10.9.0.0/16: via"],
  [{ routes4: { ...via, metrics: [{ mtu: 1300, rtt: 12 }] } }, "route 10.9.0.0/16: rtt"],
  [{ routes4: { ...via, metrics: [{ congestion: "reno" }] } }, "route 10.9.0.0/16: congestion"],
  [{ routes4: { ...via, flags: ["pervasive"] } }, "route 10.9.0.0/16: pervasive"],
  [{ routes4: { dst: "10.9.0.0/16", nexthops: [{ dev: "eth0", encap: "mpls" }] } }, "route 10.9.0.0/16: encap"],
  [{ routes6: { dst: "fd08::/64", from: "fd00::/64", dev: "eth0" } }, "route fd08::/64: from"],
  [
    { neighbours: { dst: "10.4.0.9", dev: "eth0", lladdr: "ee:ee:ee:ee:ee:ee", managed: null } },
    "10.4.0.9 of eth0: managed",
  ],
  [{ rules4: { priority: 7, l3mdev: null } }, "rule 7: l3mdev"],
  [{ rules6: { priority: 8, table: "5", suppress_ifgroup: "3" } }, "rule 8: suppress_ifgroup"],
  [{ rules4: { priority: 9 } }, "rule 9: an action that iproute2 does not name"],
])("%j is refused by name and not left out", (entry, what) => {
  const text = { ...nothing };
  for (const [key, value] of Object.entries(entry)) Object.assign(text, { [key]: JSON.stringify([value]) });
  expect(() => parseRouting(text, interfaces)).toThrow(`${what} is not supported`);
});
