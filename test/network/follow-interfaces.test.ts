/** A real namespace whose interfaces change, followed for a VM that only notes what it is asked, and can refuse it. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { create } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import { RoutesSchema } from "../../src/gen/agent_pb.ts";
import { InterfaceSchema } from "../../src/gen/types_pb.ts";
import type { Device } from "../../src/hypervisor/interface.ts";
import { silentLog } from "../../src/log.ts";
import { InterfaceWatch } from "../../src/network/interface-watch.ts";
import { followInterfaces } from "../../src/sandbox/interface-follower.ts";
import { Interfaces } from "../../src/sandbox/interfaces.ts";
import { asFd } from "../../src/sys/fd.ts";
import { spawnProcess, terminate } from "../../src/sys/process.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { type EngineNetns, makeEngineNetns } from "../harness/netns.ts";
import { until } from "../harness/until.ts";

let netns: EngineNetns;
let stack: AsyncDisposableStack;
/** What the VM was asked, in order. */
let asked: string[];
let errors: string[];
/** Calls of the agent that are to fail. */
let failures: number;

const ip = (...lines: string[]) =>
  runOrThrow(["ip", "-batch", "-"], { netns: netns.path, input: `${lines.join("\n")}\n` });
const plugged = () => asked.filter((line) => /^(add|remove)/.test(line));
const untilAsked = (wanted: string) =>
  until(
    async () => asked,
    (seen) => seen.includes(wanted),
  );

const devices = {
  addDevice: async (device: Device) => {
    if (device.kind !== "nic") throw new Error(`a ${device.kind}`);
    // It keeps the tap, as QEMU does.
    const holder = spawnProcess({
      argv: ["sleep", "1000"],
      stdio: ["ignore", "ignore", "ignore", ...device.tapFds.map(asFd)],
    });
    stack.defer(async () => {
      await terminate(holder);
    });
    asked.push(`add ${device.id}`);
    return { id: device.id, pciPath: undefined };
  },
  removeDevice: async (id: string) => {
    asked.push(`remove ${id}`);
  },
};

const guest: ConstructorParameters<typeof Interfaces>[1] = {
  updateInterface: async ({ interface: told }) => {
    if (failures-- > 0) throw new Error("not now");
    asked.push(`${told?.name} ${told?.IPAddresses?.map(({ address }) => address).join(" ")}`);
    return create(InterfaceSchema);
  },
  updateRoutes: async () => create(RoutesSchema),
  updateRules: async () => create(EmptySchema),
  addARPNeighbors: async () => create(EmptySchema),
};

beforeEach(async () => {
  asked = [];
  errors = [];
  failures = 0;
  netns = await makeEngineNetns();
  stack = new AsyncDisposableStack();
  await ip("link add name eth0 type bridge", "address add 10.90.0.2/24 dev eth0", "link set eth0 up");
  const watch = stack.use(new InterfaceWatch(netns.path));
  const log = {
    ...silentLog,
    error: (_event: string, fields = {}) => {
      errors.push(JSON.stringify(fields));
    },
  };
  const interfaces = stack.use(new Interfaces(devices, guest, watch.netns, log));
  expect(await interfaces.settle(() => true, AbortSignal.timeout(60_000))).toEqual({ added: 1, failures: [] });
  const ending = new AbortController();
  const following = followInterfaces(watch, interfaces, log, ending.signal);
  stack.defer(async () => {
    ending.abort();
    await following;
  });
  asked = [];
});
afterEach(async () => {
  await stack.disposeAsync();
  await netns[Symbol.asyncDispose]();
});

test("what fails is tried again without another change, and told once", async () => {
  failures = 2;
  await ip("address add 10.90.0.3/24 dev eth0");
  await untilAsked("eth0 10.90.0.2 10.90.0.3");
  expect(errors).toEqual([JSON.stringify({ error: "not now" })]);
});

test("one that is renamed all the time is no other one", async () => {
  for (let round = 0; round < 25; round++) {
    await ip("link set eth0 down", "link set eth0 name eth1", "link set eth1 name eth0", "link set eth0 up");
  }
  await ip("address add 10.90.0.3/24 dev eth0");
  await untilAsked("eth0 10.90.0.2 10.90.0.3");
  expect(errors).toEqual([]);
  expect(plugged()).toEqual([]);
});

test("one that has gone leaves its NIC to one of any name that comes at once, and else the NIC goes", async () => {
  const another = ["link add name net7 type bridge", "address add 10.90.0.4/24 dev net7"];
  await ip("link del eth0", ...another, "link set net7 up");
  await untilAsked("net7 10.90.0.4");
  expect(plugged()).toEqual([]);
  await ip("link del net7");
  await untilAsked("remove nic0");
  expect(errors).toEqual([]);
});
