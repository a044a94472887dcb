import { expect, test } from "bun:test";
import { isOrphanedRedirect, obstacleTo, parseInterfaces } from "./interface-view.ts";

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
const address = { peer: "", broadcast: "", scope: 0, label: "", flags: 0 };
test("reads interfaces and their addresses", () => {
  const view = parseInterfaces(addresses);
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
});

test.each([
  [
    {
      ifindex: 2,
      ifname: "eth0",
      link_type: "ether",
      addr_info: [{ family: "inet6", local: "fd::", prefixlen: 8, anycast: "fd::" }],
    },
    "address fd:: of eth0: anycast",
  ],
  [
    {
      ifindex: 2,
      ifname: "eth0",
      link_type: "ether",
      addr_info: [{ family: "inet", local: "10.0.0.1", prefixlen: 8, scope: "odd" }],
    },
    'address of eth0: {"family":"inet","local":"10.0.0.1","prefixlen":8,"scope":"odd"}',
  ],
])("%j is refused by name and not left out", (entry, what) => {
  expect(() => parseInterfaces(JSON.stringify([entry]))).toThrow(`${what} is not supported`);
});

test.each([
  ["02:00:00:00:00:07", "fe80::ff:fe00:7"],
  ["00:00:00:00:00:00", "fe80::200:ff:fe00:0"],
  ["7a:00:12:34:0a:bc", "fe80::7800:12ff:fe34:abc"],
])("the guest makes the link-local address of %s itself", (address, local) => {
  const view = parseInterfaces(
    JSON.stringify([
      {
        ifindex: 2,
        ifname: "e",
        link_type: "ether",
        address,
        addr_info: [{ family: "inet6", local, prefixlen: 64, scope: "link" }],
      },
    ]),
  );
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
  const view = parseInterfaces(JSON.stringify([link]));
  const [parsed] = view.interfaces;
  if (parsed === undefined) throw new Error("not read");
  expect(parsed.flags).toBe(0x80);
  if (expected === undefined) expect(obstacleTo(parsed)).toBeUndefined();
  else expect(obstacleTo(parsed)).toContain(expected);
});

test("an answer that is not JSON is an error that says what was read", () => {
  expect(() => parseInterfaces("Object")).toThrow("addresses");
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
