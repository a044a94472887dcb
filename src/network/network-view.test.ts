import { expect, test } from "bun:test";
import { isOrphanedRedirect, obstacleTo, parseNetworkView } from "./network-view.ts";

const addresses = JSON.stringify([
  { ifname: "lo", link_type: "loopback", address: "00:00:00:00:00:00", mtu: 65536, addr_info: [] },
  {
    ifname: "eth0",
    link_type: "ether",
    address: "0a:58:0a:04:00:05",
    mtu: 1450,
    linkinfo: { info_kind: "veth" },
    flags: ["BROADCAST", "UP"],
    addr_info: [
      { family: "inet", local: "10.4.0.5", prefixlen: 24, scope: "global" },
      { family: "inet6", local: "fd00::5", prefixlen: 64, scope: "global" },
      { family: "inet6", local: "fe80::858:aff:fe04:5", prefixlen: 64, scope: "link" },
      { family: "inet6", local: "fe80::1", prefixlen: 64, scope: "link" },
    ],
  },
  { ifname: "tun0", link_type: "none", flags: ["POINTOPOINT", "UP"], mtu: 1500, addr_info: [] },
  { ifname: "sit0", link_type: "sit", address: "0.0.0.0", flags: ["NOARP"], mtu: 1480, addr_info: [] },
]);
const routes4 = JSON.stringify([
  { dst: "default", gateway: "10.4.0.1", dev: "eth0", flags: [] },
  { dst: "10.4.0.0/24", dev: "eth0", protocol: "kernel", scope: "link", prefsrc: "10.4.0.5" },
  { dst: "169.254.1.1", dev: "eth0", scope: "link" },
  { dst: "10.9.0.0/16", dev: "gone0" },
  { dst: "10.8.0.0/16", gateway: "10.7.0.1", dev: "eth0", flags: ["onlink"], metrics: [{ mtu: 1300 }] },
]);
const neighbours = JSON.stringify([
  { dst: "169.254.1.1", dev: "eth0", lladdr: "ee:ee:ee:ee:ee:ee", state: ["PERMANENT"] },
]);

const route = { family: "v4", device: "eth0", gateway: "", source: "", scope: 0, onLink: false, mtu: 0 } as const;

test("reads interfaces, every route with those to gateways last, and permanent neighbours", () => {
  const view = parseNetworkView({ addresses, routes4, routes6: "", neighbours });
  expect(view.interfaces).toEqual([
    {
      name: "eth0",
      kind: "veth",
      mode: "",
      mac: "0a:58:0a:04:00:05",
      mtu: 1450,
      isUp: true,
      noArp: false,
      addresses: [
        { family: "v4", address: "10.4.0.5", prefixLength: 24 },
        { family: "v6", address: "fd00::5", prefixLength: 64 },
        // The other one follows from the MAC address.
        { family: "v6", address: "fe80::1", prefixLength: 64 },
      ],
    },
  ]);
  // What is down and no Ethernet comes into every namespace with a kernel module.
  expect(view.otherInterfaces).toEqual(["tun0"]);
  expect(view.routes).toEqual([
    { ...route, destination: "10.4.0.0/24", source: "10.4.0.5", scope: 253 },
    { ...route, destination: "169.254.1.1/32", scope: 253 },
    { ...route, destination: "", gateway: "10.4.0.1" },
    { ...route, destination: "10.8.0.0/16", gateway: "10.7.0.1", onLink: true, mtu: 1300 },
  ]);
  expect(view.neighbours).toEqual([{ family: "v4", address: "169.254.1.1", device: "eth0", mac: "ee:ee:ee:ee:ee:ee" }]);
});

test.each([
  ["02:00:00:00:00:07", "fe80::ff:fe00:7"],
  ["00:00:00:00:00:00", "fe80::200:ff:fe00:0"],
  ["7a:00:12:34:0a:bc", "fe80::7800:12ff:fe34:abc"],
])("the guest makes the link-local address of %s itself", (address, local) => {
  const view = parseNetworkView({
    addresses: JSON.stringify([
      {
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
  const link = { ifname: "e", link_type: "ether", flags: ["UP", "NOARP"], address: "02:00:00:00:00:07", linkinfo };
  const view = parseNetworkView({ addresses: JSON.stringify([link]), routes4: "", routes6: "", neighbours: "" });
  const [parsed] = view.interfaces;
  if (parsed === undefined) throw new Error("not read");
  expect(parsed.noArp).toBe(true);
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
