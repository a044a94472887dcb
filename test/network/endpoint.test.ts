import { afterAll, beforeAll, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { readSync } from "node:fs";
import { connectInterface, interfaceIndices, readInterfaces, readRouting } from "../../src/network/endpoint.ts";
import { parseRouting } from "../../src/network/routing-view.ts";
import { FIRST_RULES } from "../../src/network/rule-view.ts";
import { inNetns } from "../../src/sys/namespace.ts";
import { runOrThrow, runProcess } from "../../src/sys/run-process.ts";
import { openTap } from "../../src/sys/tap.ts";

const name = `hearth-test-${randomBytes(4).toString("hex")}`;
const netns = `/run/netns/${name}`;
const signal = AbortSignal.timeout(60_000);
const inside = (...argv: [string, ...string[]]) => runOrThrow(argv, { netns });

const ETHERTYPE_ARP = 0x0806;
/** Source: linux/virtio_net.h: struct virtio_net_hdr; then 12 bytes of MAC addresses. */
const ETHERTYPE_OFFSET = 10 + 12;

/** Ether types of the frames that wait at a tap. */
function readFrames(fd: number): number[] {
  const types: number[] = [];
  const frame = Buffer.alloc(2048);
  try {
    for (;;) {
      readSync(fd, frame);
      types.push(frame.readUInt16BE(ETHERTYPE_OFFSET));
    }
  } catch (error) {
    expect(error).toHaveProperty("code", "EAGAIN");
  }
  return types;
}

beforeAll(async () => {
  await runOrThrow(["ip", "netns", "add", name]);
  await inside("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0");
  await inside("ip", "addr", "add", "10.99.0.2/24", "dev", "eth0");
  await inside("ip", "link", "set", "eth0", "mtu", "1400", "up");
  await inside("ip", "link", "set", "peer0", "up");
  await inside("ip", "route", "add", "default", "via", "10.99.0.1");
  await inside("ip", "neigh", "add", "10.99.0.9", "lladdr", "02:00:00:00:00:09", "dev", "eth0", "nud", "permanent");
});

afterAll(async () => {
  await runOrThrow(["ip", "netns", "del", name]);
});

test("reads what the guest has to take over", async () => {
  expect([...interfaceIndices(netns).keys()].sort()).toEqual(["eth0", "peer0"]);
  const { interfaces } = await readInterfaces(netns, signal);
  const view = parseRouting(await readRouting(netns, signal), new Set(interfaces.map((entry) => entry.name)));
  const eth0 = interfaces.find((entry) => entry.name === "eth0");
  expect(eth0?.mtu).toBe(1400);
  expect(eth0?.kind).toBe("veth");
  expect(eth0?.addresses).toMatchObject([{ family: "v4", address: "10.99.0.2", prefixLength: 24, label: "eth0" }]);
  // In any order: the agent puts them in its own.
  expect(new Map(view.routes.map(({ destination, gateway }) => [destination, gateway]))).toEqual(
    new Map([
      ["10.99.0.0/24", ""],
      ["", "10.99.0.1"],
    ]),
  );
  expect(view.routes).toHaveLength(2);
  expect(view.rules).toEqual(FIRST_RULES);
  expect(view.neighbours).toEqual([
    { family: "v4", address: "10.99.0.9", device: "eth0", mac: "02:00:00:00:00:09", isRouter: false },
  ]);
});

test("an interface that has another's name since has another index", async () => {
  const indices: (number | undefined)[] = [];
  for (const round of [1, 2]) {
    await inside("ip", "link", "add", "again0", "type", "veth", "peer", "name", "again1");
    indices.push(interfaceIndices(netns).get("again0"));
    if (round === 1) await inside("ip", "link", "del", "again0");
  }
  await inside("ip", "link", "del", "again0");
  expect(indices[0]).toBeGreaterThan(0);
  expect(indices[1]).not.toBe(indices[0]);
});

test("packets of the interface reach the tap, and disposing leaves neither tap nor filter", async () => {
  const { interfaces } = await readInterfaces(netns, signal);
  const source = interfaces.find((entry) => entry.name === "eth0");
  if (source === undefined) throw new Error("no eth0");
  {
    await using endpoint = await connectInterface(netns, source, 0, signal);
    expect([...interfaceIndices(netns).keys()]).toContain(endpoint.tapName);
    for (const device of ["eth0", endpoint.tapName]) {
      expect(await inside("tc", "filter", "show", "dev", device, "ingress")).toContain("mirred (Egress Redirect");
    }
    // An ARP request that leaves by the peer arrives at eth0 and is redirected to the tap.
    await inside("ip", "addr", "add", "10.99.0.1/24", "dev", "peer0");
    await runProcess(["busybox", "arping", "-c", "1", "-w", "1", "-I", "peer0", "10.99.0.77"], { netns });
    expect(readFrames(endpoint.tap.fd)).toContain(ETHERTYPE_ARP);
  }
  expect([...interfaceIndices(netns).keys()]).not.toContain("hearth0");
  expect(await inside("tc", "qdisc", "show", "dev", "eth0")).not.toContain("ingress");
});

test("the tap of an interface that has gone is joined to another one of its name, both ways", async () => {
  const make = async (number: number) => {
    await inside("ip", "link", "add", "swap0", "type", "veth", "peer", "name", "swap1");
    await inside("ip", "addr", "add", `10.98.${number}.1/24`, "dev", "swap1");
    for (const device of ["swap0", "swap1"]) await inside("ip", "link", "set", device, "up");
  };
  const index = () => interfaceIndices(netns).get("swap0") ?? 0;
  await make(1);
  {
    await using endpoint = await connectInterface(netns, { index: index(), mtu: 1400 }, 5, signal);
    await inside("ip", "link", "del", "swap0");
    await make(2);
    await endpoint.join(index(), signal);
    await endpoint.setMtu(1300, signal);
    expect(await inside("ip", "-o", "link", "show", endpoint.tapName)).toContain("mtu 1300");
    const filters = await inside("tc", "filter", "show", "dev", endpoint.tapName, "ingress");
    expect(filters.match(/to device \S+/g)).toEqual(["to device swap0)"]);
    readFrames(endpoint.tap.fd);
    await runProcess(["busybox", "arping", "-c", "1", "-w", "1", "-I", "swap1", "10.98.2.77"], { netns });
    expect(readFrames(endpoint.tap.fd)).toContain(ETHERTYPE_ARP);
    // Renamed, it is found when the filters are removed.
    for (const change of ["down", "name swap9", "up"]) {
      const device = change === "up" ? "swap9" : "swap0";
      await inside("ip", "link", "set", device, ...change.split(" "));
    }
  }
  expect(await inside("tc", "qdisc", "show", "dev", "swap9")).not.toContain("ingress");
  await inside("ip", "link", "del", "swap9");
});

test("filters of an owner that was killed are replaced, those of somebody else are not", async () => {
  const { interfaces } = await readInterfaces(netns, signal);
  const source = interfaces.find((entry) => entry.name === "eth0");
  if (source === undefined) throw new Error("no eth0");
  const killed = await connectInterface(netns, source, 3, signal);
  await expect(connectInterface(netns, source, 4, signal)).rejects.toThrow("tc qdisc add dev if");
  expect(await inside("tc", "filter", "show", "dev", "eth0", "ingress")).toContain("hearth3");
  // Its tap goes with its process, the filters stay.
  killed.tap[Symbol.dispose]();
  {
    await using _endpoint = await connectInterface(netns, source, 4, signal);
    expect(await inside("tc", "filter", "show", "dev", "eth0", "ingress")).toContain("hearth4");
  }
  expect(await inside("tc", "qdisc", "show", "dev", "eth0")).not.toContain("ingress");
});

test("a failure half-way leaves nothing: the name of the tap is taken", async () => {
  using _taken = inNetns(netns, () => openTap("hearth7"));
  const { interfaces } = await readInterfaces(netns, signal);
  const source = interfaces.find((entry) => entry.name === "eth0");
  if (source === undefined) throw new Error("no eth0");
  await expect(connectInterface(netns, source, 7, signal)).rejects.toThrow("EBUSY");
  expect(await inside("tc", "qdisc", "show", "dev", "eth0")).not.toContain("ingress");
});

test("a path that is no namespace is refused", () => {
  expect(() => interfaceIndices("/proc/self/status")).toThrow("network namespace");
});
