import { expect, test } from "bun:test";
import { isOrphanedRedirect, parseNetworkView } from "./network-view.ts";

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
]);
const neighbours = JSON.stringify([
  { dst: "169.254.1.1", dev: "eth0", lladdr: "ee:ee:ee:ee:ee:ee", state: ["PERMANENT"] },
]);

test("reads interfaces, every route with those to gateways last, and permanent neighbours", () => {
  const view = parseNetworkView({ addresses, routes4, routes6: "", neighbours });
  expect(view.interfaces).toEqual([
    {
      name: "eth0",
      kind: "veth",
      mac: "0a:58:0a:04:00:05",
      mtu: 1450,
      isUp: true,
      addresses: [
        { family: "v4", address: "10.4.0.5", prefixLength: 24 },
        { family: "v6", address: "fd00::5", prefixLength: 64 },
      ],
    },
  ]);
  // What is down and no Ethernet comes into every namespace with a kernel module.
  expect(view.otherInterfaces).toEqual(["tun0"]);
  expect(view.routes).toEqual([
    { family: "v4", destination: "10.4.0.0/24", gateway: "", device: "eth0", source: "10.4.0.5", scope: 253 },
    { family: "v4", destination: "169.254.1.1/32", gateway: "", device: "eth0", source: "", scope: 253 },
    { family: "v4", destination: "", gateway: "10.4.0.1", device: "eth0", source: "", scope: 0 },
  ]);
  expect(view.neighbours).toEqual([{ family: "v4", address: "169.254.1.1", device: "eth0", mac: "ee:ee:ee:ee:ee:ee" }]);
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
