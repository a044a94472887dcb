import { expect, test } from "bun:test";
import { isOrphanedRedirect, obstacleTo, parseNetworkView } from "./network-view.ts";
import type { NetworkRoute } from "./route-view.ts";

const addresses = JSON.stringify([
  { ifindex: 1, ifname: "lo", link_type: "loopback", address: "00:00:00:00:00:00", mtu: 65536, addr_info: [] },
  {
    ifindex: 2,
    ifname: "eth0",
    link_type: "ether",
    address: "0a:58:0a:04:00:05",
    mtu: 1450,
    linkinfo: { info_kind: "veth" },
    flags: ["BROADCAST", "UP"],
    addr_info: [
      { family: "inet", local: "10.4.0.5", prefixlen: 24, broadcast: "10.4.0.255", scope: "global", label: "eth0" },
      { family: "inet", local: "10.4.0.5", address: "10.4.0.6", prefixlen: 32, scope: "link", noprefixroute: true },
      { family: "inet6", local: "fd00::6", prefixlen: 64, scope: "global", deprecated: true, preferred_life_time: 0 },
      { family: "inet6", local: "fd00::5", prefixlen: 64, scope: "global" },
      { family: "inet6", local: "fe80::858:aff:fe04:5", prefixlen: 64, scope: "link" },
      { family: "inet6", local: "fe80::1", prefixlen: 64, scope: "link" },
      {},
      { family: "inet6", local: "fd00::7", prefixlen: 64, scope: "global", dadfailed: true },
    ],
  },
  { ifindex: 3, ifname: "tun0", link_type: "none", flags: ["POINTOPOINT", "UP"], mtu: 1500, addr_info: [] },
  { ifindex: 4, ifname: "sit0", link_type: "sit", address: "0.0.0.0", flags: ["NOARP"], mtu: 1480, addr_info: [] },
]);
const routes4 = JSON.stringify([
  { dst: "default", gateway: "10.4.0.1", dev: "eth0", protocol: "4", metric: 100, flags: ["linkdown"] },
  { dst: "10.4.0.0/24", dev: "eth0", protocol: "2", scope: "253", prefsrc: "10.4.0.5" },
  { dst: "169.254.1.1", dev: "eth0", scope: "253" },
  { dst: "10.9.0.0/16", dev: "gone0" },
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

const address = { peer: "", broadcast: "", scope: 0, label: "", flags: 0 };
const route: NetworkRoute = {
  destination: "",
  ...{ family: "v4", device: "eth0", gateway: "", source: "", scope: 0, onLink: false, mtu: 0, type: 1, metric: 0 },
  ...{ tos: 0, protocol: 3, preference: 0, expiresS: 0, metrics: [], nextHops: [] },
};
const route6: NetworkRoute = { ...route, family: "v6", metric: 1024 };

test("reads interfaces, every route, and permanent neighbours", () => {
  const view = parseNetworkView({ addresses, routes4, routes6, neighbours });
  expect(view.interfaces).toEqual([
    {
      name: "eth0",
      index: 2,
      kind: "veth",
      mode: "",
      mac: "0a:58:0a:04:00:05",
      mtu: 1450,
      isUp: true,
      flags: 0,
      addresses: [
        { ...address, family: "v4", address: "10.4.0.5", prefixLength: 24, broadcast: "10.4.0.255", label: "eth0" },
        { ...address, family: "v4", address: "10.4.0.5", prefixLength: 32, peer: "10.4.0.6", scope: 253, flags: 0x200 },
        // In the order in which the kernel was given them; the other link-local one follows from the MAC address.
        { ...address, family: "v6", address: "fe80::1", prefixLength: 64, scope: 253 },
        { ...address, family: "v6", address: "fd00::5", prefixLength: 64 },
        { ...address, family: "v6", address: "fd00::6", prefixLength: 64, flags: 0x20 },
      ],
    },
  ]);
  // What is down and no Ethernet comes into every namespace with a kernel module.
  expect(view.otherInterfaces).toEqual(["tun0"]);
  expect(view.routes).toEqual([
    { ...route, destination: "", gateway: "10.4.0.1", metric: 100, protocol: 4 },
    { ...route, destination: "10.4.0.0/24", source: "10.4.0.5", scope: 253, protocol: 2 },
    { ...route, destination: "169.254.1.1/32", scope: 253 },
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

const via = { dst: "10.9.0.0/16", gateway: "10.4.0.1", dev: "eth0" };
test.each([
  [{ routes4: { ...via, table: "5" } }, "route 10.9.0.0/16: table 5"],
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
  [
    {
      addresses: {
        ifindex: 2,
        ifname: "eth0",
        link_type: "ether",
        addr_info: [{ family: "inet6", local: "fd::", prefixlen: 8, anycast: "fd::" }],
      },
    },
    "address fd:: of eth0: anycast",
  ],
  [
    {
      addresses: {
        ifindex: 2,
        ifname: "eth0",
        link_type: "ether",
        addr_info: [{ family: "inet", local: "10.0.0.1", prefixlen: 8, scope: "odd" }],
      },
    },
    'address of eth0: {"family":"inet","local":"10.0.0.1","prefixlen":8,"scope":"odd"}',
  ],
])("%j is refused by name and not left out", (entry, what) => {
  const text = { addresses, routes4: "", routes6: "", neighbours: "" };
  for (const [key, value] of Object.entries(entry)) Object.assign(text, { [key]: JSON.stringify([value]) });
  expect(() => parseNetworkView(text)).toThrow(`${what} is not supported`);
});

test.each([
  ["02:00:00:00:00:07", "fe80::ff:fe00:7"],
  ["00:00:00:00:00:00", "fe80::200:ff:fe00:0"],
  ["7a:00:12:34:0a:bc", "fe80::7800:12ff:fe34:abc"],
])("the guest makes the link-local address of %s itself", (address, local) => {
  const view = parseNetworkView({
    addresses: JSON.stringify([
      {
        ifindex: 2,
        ifname: "e",
        link_type: "ether",
        address,
        addr_info: [{ family: "inet6", local, prefixlen: 64, scope: "link" }],
      },
    ]),
    routes4: "",
    routes6: "",
    neighbours: "",
  });
  expect(view.interfaces.map((entry) => entry.addresses)).toEqual([[]]);
});

test.each([
  [{ info_kind: "ipvlan", info_data: { mode: "l2" } }, undefined],
  [{ info_kind: "ipvlan", info_data: { mode: "l3 " } }, undefined],
  [{ info_kind: "ipvlan", info_data: { mode: "l3s" } }, "mode l3s"],
  [{ info_kind: "macvlan", info_data: { mode: "passthru" } }, undefined],
  [{ info_kind: "macvtap", info_data: { mode: "bridge" } }, "kind macvtap is not supported"],
  [undefined, undefined],
])("%j: what keeps it from being connected: %p", (linkinfo, expected) => {
  const link = {
    ifindex: 2,
    ifname: "e",
    link_type: "ether",
    flags: ["UP", "NOARP"],
    address: "02:00:00:00:00:07",
    linkinfo,
  };
  const view = parseNetworkView({ addresses: JSON.stringify([link]), routes4: "", routes6: "", neighbours: "" });
  const [parsed] = view.interfaces;
  if (parsed === undefined) throw new Error("not read");
  expect(parsed.flags).toBe(0x80);
  if (expected === undefined) expect(obstacleTo(parsed)).toBeUndefined();
  else expect(obstacleTo(parsed)).toContain(expected);
});

test("an answer that is not JSON is an error that says what was read", () => {
  expect(() => parseNetworkView({ addresses: "Object", routes4: "", routes6: "", neighbours: "" })).toThrow(
    "addresses",
  );
});

test.each([
  [["*"], true],
  [["*", "*"], true],
  [["hearth0"], false],
  [["*", "eth1"], false],
  [[], false],
])("filters that redirect to %j: orphaned %p", (targets, expected) => {
  const rows = [
    { kind: "u32", chain: 0 },
    ...targets.map((to_dev) => ({ kind: "u32", options: { actions: [{ kind: "mirred", to_dev }] } })),
  ];
  expect(isOrphanedRedirect(JSON.stringify(rows))).toBe(expected);
});

test("no filters at all are not orphaned", () => {
  expect(isOrphanedRedirect("")).toBe(false);
});
