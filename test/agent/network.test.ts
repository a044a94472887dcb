/** The agent's network calls in a network namespace of its own, checked with iproute2. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { IPFamily } from "../../src/gen/types_pb.ts";
import { until } from "../harness/until.ts";
import { type HostAgent, startHostAgent } from "./host-agent.ts";

const MAC = "52:54:00:12:34:56";
const { v4, v6 } = IPFamily;

let agent: HostAgent;
beforeEach(async () => {
  agent = await startHostAgent();
});
afterEach(async () => {
  await agent[Symbol.asyncDispose]();
});

const ip = (...args: string[]): Promise<string> => agent.runInside(["ip", ...args]);
/** Lines of `ip`, without the blanks around them. */
const lines = async (...args: string[]): Promise<string[]> =>
  (await ip(...args)).split("\n").flatMap((line) => (line.trim() === "" ? [] : line.trim()));

async function addLink(name: string, mac = MAC): Promise<void> {
  await ip("link", "add", name, "address", mac, "type", "veth", "peer", "name", `${name}p`);
  await ip("link", "set", `${name}p`, "up");
}

const interface_ = (changes: object = {}) => ({
  interface: {
    name: "eth0",
    hwAddr: MAC.toUpperCase(),
    mtu: 1400n,
    IPAddresses: [
      { family: v4, address: "10.1.2.3", mask: "24" },
      { family: v6, address: "fd00::3", mask: "64" },
    ],
    ...changes,
  },
});

describe("interface", () => {
  test("found by its hardware address, gets name, MTU and addresses, and is up", async () => {
    await addLink("any7");
    const answer = await agent.client.agent.updateInterface(interface_());
    expect(answer).toMatchObject({ name: "eth0", hwAddr: MAC, mtu: 1400n });
    expect(answer.rawFlags & 1).toBe(1);
    const shown = await ip("-o", "addr", "show", "dev", "eth0");
    expect(shown).toContain("inet 10.1.2.3/24");
    expect(shown).toContain("inet6 fd00::3/64");
    // Usable at once.
    expect(await ip("-o", "addr", "show", "dev", "eth0", "scope", "global")).not.toContain("tentative");
    expect(await ip("-o", "link", "show", "dev", "eth0")).toMatch(/<[^>]*\bUP\b[^>]*> mtu 1400 /);
  });

  test("asked for again with other addresses loses the first ones", async () => {
    await addLink("any7");
    await agent.client.agent.updateInterface(interface_());
    const IPAddresses = [{ family: v4, address: "10.9.9.9", mask: "16" }];
    const answer = await agent.client.agent.updateInterface(interface_({ mtu: 0n, IPAddresses }));
    expect(answer.mtu).toBe(1400n);
    const shown = await ip("-o", "addr", "show", "dev", "eth0", "scope", "global");
    expect(shown).toContain("inet 10.9.9.9/16");
    expect(shown).not.toContain("10.1.2.3");
    expect(shown).not.toContain("fd00::3");
  });

  test("has the link-local address that it is given, and else the kernel's; asks nobody when it is told so", async () => {
    await addLink("any7");
    const linkLocal = (): Promise<string[]> => lines("-6", "addr", "show", "dev", "eth0", "scope", "link");
    await agent.client.agent.updateInterface(interface_());
    await until(linkLocal, (seen) => seen.some((line) => line.includes("fe80::5054:ff:fe12:3456/64")));
    const IPAddresses = [{ family: v6, address: "fe80::77", mask: "64" }];
    const IFF_NOARP = 0x80;
    await agent.client.agent.updateInterface(interface_({ IPAddresses, rawFlags: IFF_NOARP }));
    const only = [expect.stringMatching(/^inet6 fe80::77\/64 /)];
    expect((await linkLocal()).filter((line) => line.startsWith("inet6"))).toEqual(only);
    expect(await ip("-o", "link", "show", "dev", "eth0")).toMatch(/<[^>]*\bNOARP\b/);
    // Nor does the kernel make its own again.
    await ip("link", "set", "eth0", "down");
    await agent.client.agent.updateInterface(interface_({ IPAddresses }));
    expect((await linkLocal()).filter((line) => line.startsWith("inet6"))).toEqual(only);
  });

  test("addresses with all that belongs to them, and a link that takes every packet", async () => {
    await addLink("any7");
    const IPAddresses = [
      { family: v4, address: "10.1.2.3", mask: "24", broadcast: "10.1.2.255", label: "eth0:first" },
      { family: v4, address: "10.2.0.1", mask: "32", peer: "10.2.0.2", scope: 253, flags: 0x200 },
      { family: v6, address: "fd00::3", mask: "64", flags: 0x20 },
    ];
    const answer = await agent.client.agent.updateInterface(interface_({ IPAddresses, rawFlags: 0x300 }));
    const described = answer.IPAddresses.filter(({ address }) => !address.startsWith("fe80:"));
    expect(described.map(({ address, peer, broadcast, label }) => ({ address, peer, broadcast, label }))).toEqual([
      { address: "10.2.0.1", peer: "10.2.0.2", broadcast: "", label: "eth0" },
      { address: "10.1.2.3", peer: "", broadcast: "10.1.2.255", label: "eth0:first" },
      { address: "fd00::3", peer: "", broadcast: "", label: "" },
    ]);
    const shown = (await lines("addr", "show", "dev", "eth0")).filter((line) => line.startsWith("inet"));
    expect(shown.slice(0, 3)).toEqual([
      "inet 10.2.0.1 peer 10.2.0.2/32 scope link noprefixroute eth0",
      "inet 10.1.2.3/24 brd 10.1.2.255 scope global eth0:first",
      "inet6 fd00::3/64 scope global nodad deprecated",
    ]);
    expect(await ip("-o", "link", "show", "dev", "eth0")).toMatch(/<[^>]*\bALLMULTI,PROMISC\b/);
    // The same again, and then others.
    await agent.client.agent.updateInterface(interface_({ IPAddresses }));
    const other = [{ family: v4, address: "10.9.9.9", mask: "16" }];
    await agent.client.agent.updateInterface(interface_({ IPAddresses: other }));
    const left = (await lines("-4", "addr", "show", "dev", "eth0")).filter((line) => line.startsWith("inet"));
    expect(left).toEqual(["inet 10.9.9.9/16 scope global eth0"]);
  });

  test.each([
    ["another", "52:54:00:65:43:21"],
    ["the same", MAC],
  ])(
    "that replaced one: it gets %s hardware address and forgets its neighbours, permanent ones too",
    async (_, hwAddr) => {
      await addLink("any7");
      await agent.client.agent.updateInterface(interface_());
      const neighbours = ["nud reachable", "nud permanent"].map((state, n) => `10.1.2.${n + 1} ${state}`);
      for (const one of neighbours) {
        await ip("neigh", "add", ...one.split(" "), "lladdr", "52:54:00:aa:bb:cc", "dev", "eth0");
      }
      const IPAddresses = [{ family: v4, address: "10.1.2.4", mask: "24" }];
      const wanted = interface_({ hwAddr, formerHwAddr: MAC, name: "net1", mtu: 1500n, IPAddresses });
      const answer = await agent.client.agent.updateInterface(wanted);
      expect(answer).toMatchObject({ name: "net1", hwAddr, mtu: 1500n });
      expect(answer.rawFlags & 1).toBe(1);
      expect(await lines("neigh", "show", "dev", "net1")).toEqual([]);
      expect(await ip("-o", "-4", "addr", "show", "dev", "net1")).toContain("10.1.2.4/24");
      expect(await ip("-o", "-4", "addr", "show", "dev", "net1")).not.toContain("10.1.2.3");
      const ends = hwAddr.split(":").slice(4).join("");
      await until(
        () => ip("-o", "-6", "addr", "show", "dev", "net1", "scope", "link"),
        (shown) => shown.includes(ends),
      );
      // As after a call that was not answered.
      expect(await agent.client.agent.updateInterface(wanted)).toMatchObject({ name: "net1", hwAddr });
    },
  );

  test("flags that it is no longer told are cleared", async () => {
    await addLink("any7");
    await agent.client.agent.updateInterface(interface_({ rawFlags: 0x180 }));
    expect(await ip("-o", "link", "show", "dev", "eth0")).toMatch(/NOARP.*PROMISC|PROMISC.*NOARP/);
    await agent.client.agent.updateInterface(interface_());
    expect(await ip("-o", "link", "show", "dev", "eth0")).not.toMatch(/NOARP|PROMISC/);
  });

  test("a name that another one has is taken from it", async () => {
    await addLink("eth0", "52:54:00:00:00:01");
    await addLink("any7");
    await agent.client.agent.updateInterface(interface_());
    expect(await ip("-o", "link", "show", "dev", "eth0")).toContain(MAC);
  });

  test("that is not there is waited for", async () => {
    const updating = agent.client.agent.updateInterface(interface_());
    await agent.client.health.check({});
    await addLink("late");
    expect((await updating).name).toBe("eth0");
  });

  test.each([
    [{ hwAddr: "nonsense" }, "parse hardware address"],
    [{ name: "a/b" }, "not a valid name"],
    [{ name: "x".repeat(16) }, "not a valid name"],
    [{ IPAddresses: [{ family: v4, address: "10.0.0.300", mask: "24" }] }, "parse IP address"],
    [{ IPAddresses: [{ family: v4, address: "10.0.0.3", mask: "33" }] }, "parse prefix length"],
  ])("%p is refused", async (changes, message) => {
    await addLink("any7");
    await expect(agent.client.agent.updateInterface(interface_(changes))).rejects.toMatchObject({
      code: "invalid-argument",
      message: expect.stringContaining(message),
    });
  });

  test("all are listed", async () => {
    await addLink("any7");
    await ip("link", "set", "any7", "up");
    await ip("addr", "add", "10.0.0.1/8", "dev", "any7");
    const { Interfaces } = await agent.client.agent.listInterfaces({});
    expect(Interfaces.map(({ name }) => name).sort()).toEqual(["any7", "any7p", "lo"]);
    expect(Interfaces.find(({ name }) => name === "any7")).toMatchObject({
      hwAddr: MAC,
      IPAddresses: expect.arrayContaining([expect.objectContaining({ address: "10.0.0.1", mask: "8", family: v4 })]),
    });
  });
});

describe("routes", () => {
  const routes = [
    { dest: "", gateway: "10.1.2.1", device: "eth0", family: v4 },
    { dest: "10.1.2.0/24", device: "eth0", scope: 253, source: "10.1.2.3", family: v4 },
    { dest: "192.168.0.0/16", gateway: "10.1.2.2", device: "eth0", mtu: 1300, family: v4 },
    { dest: "172.16.0.1/32", gateway: "10.77.0.1", device: "eth0", flags: 4, family: v4 },
    { dest: "", gateway: "fd00::1", device: "eth0", family: v6 },
    { dest: "fd00::/64", device: "eth0", family: v6 },
  ];

  beforeEach(async () => {
    await addLink("any7");
    await agent.client.agent.updateInterface(interface_());
  });

  test("replace those that are there, gateways last", async () => {
    await ip("route", "add", "10.55.0.0/16", "dev", "eth0");
    const answer = await agent.client.agent.updateRoutes({ routes: { Routes: routes } });
    expect(await lines("route")).toEqual([
      "default via 10.1.2.1 dev eth0 proto static",
      "10.1.2.0/24 dev eth0 proto static scope link src 10.1.2.3",
      "172.16.0.1 via 10.77.0.1 dev eth0 proto static onlink",
      "192.168.0.0/16 via 10.1.2.2 dev eth0 proto static mtu 1300",
    ]);
    const shown = await ip("-6", "route");
    expect(shown).toContain("default via fd00::1 dev eth0");
    expect(shown).toContain("fd00::/64 dev eth0 proto static");
    expect(shown).toContain("fe80::/64 dev eth0 proto kernel");
    // The kernel adds its own to the link-local network in its own time.
    const described = ({ Routes }: typeof answer): string[] =>
      Routes.filter(({ dest }) => !dest.startsWith("fe80:")).map(
        ({ dest, gateway, device }) => `${dest} ${gateway} ${device}`,
      );
    expect(described(answer)).toContain(" 10.1.2.1 eth0");
    expect(described(answer)).toContain("192.168.0.0/16 10.1.2.2 eth0");
    // And once more: the same again is no error.
    await agent.client.agent.updateRoutes({ routes: { Routes: routes } });
    expect(described(await agent.client.agent.listRoutes({}))).toEqual(described(answer));
  });

  test("metrics, types, next hops, TOS, preference and time, and all of it is replaced again", async () => {
    const via = { device: "eth0", family: v4 };
    const hops = [
      { gateway: "10.1.2.1", device: "eth0", weight: 3 },
      { gateway: "10.77.0.1", device: "eth0", weight: 1, flags: 4 },
    ];
    const Routes = [
      { ...via, dest: "10.1.2.0/24", scope: 253, protocol: 2 },
      { device: "eth0", dest: "fd00::/64", metric: 256, protocol: 2 },
      { ...via, dest: "", gateway: "10.1.2.1", metric: 100, protocol: 16 },
      { ...via, dest: "", gateway: "10.1.2.2", metric: 200, mtu: 1300, metrics: [{ kind: 8, value: 1000 }] },
      { ...via, dest: "10.5.0.0/16", gateway: "10.1.2.2", tos: 0x10 },
      { dest: "10.6.0.0/16", nextHops: hops },
      { dest: "10.7.0.0/16", type: 6, metric: 5 },
      { dest: "10.8.0.0/16", type: 2, scope: 254, device: "lo" },
      { dest: "fd05::/64", gateway: "fd00::1", device: "eth0", metric: 20, preference: 1, expires: 500 },
      {
        dest: "fd06::/64",
        metric: 30,
        nextHops: ["1", "2"].map((n) => ({ gateway: `fd00::${n}`, device: "eth0", weight: 4 })),
      },
      { dest: "fd07::/64", type: 7, family: v6 },
      { dest: "fe80::5/128", device: "eth0", metric: 40 },
    ];
    await ip("link", "set", "lo", "up");
    for (const _again of [1, 2]) {
      await agent.client.agent.updateRoutes({ routes: { Routes } });
      const shown4 = await lines("-4", "route");
      expect(shown4.filter((line) => !line.includes("proto kernel"))).toEqual([
        "default via 10.1.2.1 dev eth0 proto dhcp metric 100",
        "default via 10.1.2.2 dev eth0 proto static metric 200 mtu 1300 advmss 1000",
        "10.5.0.0/16 tos 0x10 via 10.1.2.2 dev eth0 proto static",
        "10.6.0.0/16 proto static",
        "nexthop via 10.1.2.1 dev eth0 weight 3",
        "nexthop via 10.77.0.1 dev eth0 weight 1 onlink",
        "blackhole 10.7.0.0/16 proto static metric 5",
        "local 10.8.0.0/16 dev lo proto static scope host",
      ]);
      const shown = (await lines("-6", "route")).filter((line) => !line.includes("proto kernel"));
      expect(shown.map((line) => line.replace(/expires \d+sec/, "expires"))).toEqual([
        "fd05::/64 via fd00::1 dev eth0 proto static metric 20 expires pref high",
        "fd06::/64 proto static metric 30 pref medium",
        "nexthop via fd00::1 dev eth0 weight 4",
        "nexthop via fd00::2 dev eth0 weight 4",
        "unreachable fd07::/64 dev lo proto static metric 1024 pref medium",
        "fe80::5 dev eth0 proto static metric 40 pref medium",
      ]);
    }
    const { Routes: described } = await agent.client.agent.listRoutes({});
    expect(described.find(({ dest }) => dest === "10.6.0.0/16")).toMatchObject({
      nextHops: [hops[0], hops[1]],
    });
    expect(described.find(({ metric }) => metric === 200)).toMatchObject({
      mtu: 1300,
      metrics: [{ kind: 8, value: 1000 }],
    });
    await agent.client.agent.updateRoutes({ routes: { Routes: Routes.slice(0, 2) } });
    expect(
      [...(await lines("-4", "route")), ...(await lines("-6", "route"))].filter(
        (line) => !line.includes("proto kernel"),
      ),
    ).toEqual([]);
  });

  test("of other tables are replaced where the request names them, and only there", async () => {
    await ip("link", "set", "lo", "up");
    await ip("route", "add", "10.55.0.0/16", "dev", "eth0", "table", "7");
    await ip("route", "add", "10.56.0.0/16", "dev", "eth0", "table", "1000");
    const Routes = [
      ...routes,
      { dest: "", gateway: "10.1.2.2", device: "eth0", family: v4, table: 1000 },
      { dest: "10.1.2.0/24", device: "eth0", scope: 253, family: v4, table: 1000 },
      { dest: "", device: "lo", type: 2, scope: 254, family: v4, table: 100 },
      { dest: "fd05::/64", gateway: "fd00::1", device: "eth0", table: 1000 },
    ];
    const tables = [254, 100, 1000];
    const answer = await agent.client.agent.updateRoutes({ routes: { Routes }, tables });
    expect(await lines("route", "show", "table", "1000")).toEqual([
      "default via 10.1.2.2 dev eth0 proto static",
      "10.1.2.0/24 dev eth0 proto static scope link",
    ]);
    expect(await lines("-6", "route", "show", "table", "1000")).toEqual([
      "fd05::/64 via fd00::1 dev eth0 proto static metric 1024 pref medium",
    ]);
    expect(await lines("route", "show", "table", "100")).toEqual(["local default dev lo proto static scope host"]);
    expect(await lines("route", "show", "table", "7")).toEqual(["10.55.0.0/16 dev eth0 scope link"]);
    const main = await lines("route");
    expect(main).toHaveLength(4);
    // Those of the main table, as for a client that knows no other.
    expect(answer.Routes.filter(({ family }) => family === v4)).toHaveLength(4);
    await agent.client.agent.updateRoutes({ routes: { Routes: routes }, tables });
    for (const table of ["100", "1000"]) expect(await lines("route", "show", "table", table)).toEqual([]);
    expect(await lines("route")).toEqual(main);
  });

  test.each([
    [{ dest: "10.0.0.0/8", device: "nope" }, "not-found"],
    [{ dest: "10.0.0.0/99", device: "eth0" }, "invalid-argument"],
    [{ dest: "10.0.0.0/8", gateway: "fd00::1", device: "eth0" }, "invalid-argument"],
    [{ dest: "10.0.0.0/8", nextHops: [{ device: "eth0", weight: 257 }] }, "invalid-argument"],
    [{ dest: "10.0.0.0/8", nextHops: [{ device: "nope", weight: 1 }] }, "not-found"],
  ])("%p is refused and nothing changed", async (route, code) => {
    const before = await lines("route");
    await expect(agent.client.agent.updateRoutes({ routes: { Routes: [route] } })).rejects.toMatchObject({ code });
    expect(await lines("route")).toEqual(before);
  });
});

describe("rules", () => {
  const shown = async (family: "-4" | "-6"): Promise<string[]> =>
    (await lines(family, "-details", "rule", "show")).map((line) => line.replaceAll("\t", " "));
  const toTable = { action: 1, table: 100 };
  const rules = [
    { ...toTable, family: v4, priority: 100, source: "10.1.2.3/32" },
    {
      ...{ family: v4, priority: 101, action: 1, table: 1000, inverted: true, destination: "10.9.0.0/16", tos: 16 },
      ...{ inputDevice: "in0", outputDevice: "out0", mark: 1, markMask: 0xff, userIds: { first: 0, last: 10 } },
      ...{ ipProtocol: 6, sourcePorts: { first: 10, last: 20 }, destinationPorts: { first: 80, last: 80 } },
      ...{ prefixLengthMin: 1, protocol: 99 },
    },
    { family: v4, priority: 102, action: 2, gotoPriority: 32766 },
    { family: v4, priority: 103, action: 7, source: "10.3.0.0/16" },
    { ...toTable, family: v6, priority: 104, source: "fd00::/64" },
  ];
  const written4 = [
    "100: from 10.1.2.3 lookup 100 proto unspec",
    "101: not from all to 10.9.0.0/16 tos 0x10 fwmark 0x1/0xff iif in0 [detached] oif out0 [detached] uidrange 0-10 ipproto tcp sport 10-20 dport 80 lookup 1000 suppress_prefixlength 0 proto openr",
    "102: from all goto 32766 proto unspec",
    "103: from 10.3.0.0/16 unreachable proto unspec",
  ];
  const first = ["0: from all lookup local proto kernel", "32766: from all lookup main proto kernel"];
  const last = "32767: from all lookup default proto kernel";

  test("come and go; those that are as wanted, and those of others, stay", async () => {
    await ip("rule", "add", "from", "10.7.7.7", "table", "7", "pref", "50");
    const mine = "50: from 10.7.7.7 lookup 7 proto unspec";
    for (const _again of [1, 2]) {
      await agent.client.agent.updateRules({ rules });
      expect(await shown("-4")).toEqual([first[0] ?? "", mine, ...written4, first[1] ?? "", last]);
      expect(await shown("-6")).toEqual([
        first[0] ?? "",
        "104: from fd00::/64 lookup 100 proto unspec",
        first[1] ?? "",
      ]);
    }
    for (const _again of [1, 2]) {
      await agent.client.agent.updateRules({ rules: rules.slice(0, 1), gone: rules.slice(1) });
      expect(await shown("-4")).toEqual([first[0] ?? "", mine, written4[0] ?? "", first[1] ?? "", last]);
      expect(await shown("-6")).toEqual(first);
    }
  });

  test("one with an address that is none is refused", async () => {
    const refused = agent.client.agent.updateRules({ rules: [{ ...toTable, family: v4, source: "10.1.2/8" }] });
    await expect(refused).rejects.toMatchObject({ code: "invalid-argument" });
  });
});

test("neighbours", async () => {
  await addLink("any7");
  await agent.client.agent.updateInterface(interface_());
  const neighbour = { device: "eth0", lladdr: "52:54:00:aa:bb:cc" };
  await agent.client.agent.addARPNeighbors({
    neighbors: {
      ARPNeighbors: [
        { ...neighbour, toIPAddress: { family: v4, address: "10.1.2.9" }, state: 0x80 },
        { ...neighbour, toIPAddress: { family: v6, address: "fd00::9" } },
      ],
    },
  });
  const shown = await lines("neigh", "show", "dev", "eth0", "nud", "permanent");
  expect(shown.sort()).toEqual([
    "10.1.2.9 lladdr 52:54:00:aa:bb:cc PERMANENT",
    "fd00::9 lladdr 52:54:00:aa:bb:cc PERMANENT",
  ]);
});

describe("name servers on loopback addresses", () => {
  test("what is asked goes to the host, and its answer to who asked", async () => {
    await ip("link", "set", "lo", "up");
    const { agent: api } = agent.client;
    await api.serveNames({ address: "127.0.0.11" });
    await api.serveNames({ address: "127.0.0.11" });
    const asked = agent.runInside(["busybox", "nslookup", "-type=a", "db.", "127.0.0.11"]);
    const { id, address, message } = await api.nextNameQuery({});
    expect(address).toBe("127.0.0.11");
    // One label "db", then the root. Source: RFC 1035, 4.1.2.
    expect(Buffer.from(message.subarray(12, 16))).toEqual(Buffer.from([2, 0x64, 0x62, 0]));
    await api.answerNameQuery({ id, address, message: answerWith(message, [10, 1, 2, 3]) });
    expect(await asked).toContain("Address: 10.1.2.3");
    // Nobody waits for it any more.
    await api.answerNameQuery({ id, address, message });
  });

  test("over TCP too: several queries of one connection, answered in any order, the last one after its client's end", async () => {
    await ip("link", "set", "lo", "up");
    const { agent: api } = agent.client;
    await api.serveNames({ address: "127.0.0.11" });
    // Two messages, "one" and "three"; the answers are their names in capitals.
    const client = agent.runInside(["sh", "-c", "printf '\\0\\3one\\0\\5three' | busybox nc 127.0.0.11 53"]);
    const queries = [await api.nextNameQuery({}), await api.nextNameQuery({})];
    const texts = queries.map(({ tcp, address, message }) => [tcp, address, new TextDecoder().decode(message)]);
    expect(texts).toEqual([
      [true, "127.0.0.11", "one"],
      [true, "127.0.0.11", "three"],
    ]);
    for (const { message, ...query } of queries.toReversed()) {
      const answer = new TextEncoder().encode(new TextDecoder().decode(message).toUpperCase());
      await api.answerNameQuery({ ...query, message: answer });
    }
    expect(await client).toBe("\0\x05THREE\0\x03ONE");
  });

  test.each(["10.0.0.1", "127.0.0", "localhost"])("%s is refused", async (address) => {
    const thrown = await agent.client.agent.serveNames({ address }).catch((error: unknown) => error);
    expect(thrown).toMatchObject({ code: "invalid-argument" });
  });
});

/** The query as its answer, with one address. Source: RFC 1035, 4.1.1 and 4.1.3. */
function answerWith(query: Uint8Array, address: readonly number[]): Uint8Array {
  const header = Buffer.from(query.subarray(0, 12));
  header.writeUInt16BE(0x8180, 2);
  header.writeUInt16BE(1, 6);
  const name = [0xc0, 12];
  const typeClassAndTtl = [0, 1, 0, 1, 0, 0, 0, 60];
  return Buffer.concat([header, query.subarray(12), Buffer.from([...name, ...typeClassAndTtl, 0, 4, ...address])]);
}
