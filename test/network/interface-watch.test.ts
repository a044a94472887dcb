/** Changes of a real namespace, as they are told: those that a VM has to hear of, and none that we make ourselves. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { InterfaceWatch } from "../../src/network/interface-watch.ts";
import { inNetns } from "../../src/sys/namespace.ts";
import { openTap } from "../../src/sys/tap.ts";
import { type EngineNetns, makeEngineNetns } from "../harness/netns.ts";
import { mustRunProgram } from "../harness/program.ts";

/** The kernel tells before the command that changes something ends; for this long nothing else may be told. */
const SILENCE_MS = 100;

let netns: EngineNetns;
let watch: InterfaceWatch;
beforeEach(async () => {
  netns = await makeEngineNetns();
  await ip("link add eth0 type veth peer name peer0");
  await ip("link set eth0 up");
  watch = new InterfaceWatch(netns.path);
});
afterEach(async () => {
  watch[Symbol.dispose]();
  await netns[Symbol.asyncDispose]();
});

const ip = (line: string) => mustRunProgram(netns.inside(["ip", ...line.split(" ")]));
const silence = async () => {
  const end = AbortSignal.timeout(SILENCE_MS);
  try {
    for (;;) await watch.next(end);
  } catch (thrown) {
    if (!end.aborted) throw thrown;
  }
};
const told = async () => await watch.next(AbortSignal.timeout(10_000));

test.each([
  "link add eth1 type veth peer name peer1",
  "link set eth0 mtu 1400",
  "address add 10.93.0.2/24 dev eth0",
  "address add fd93::2/64 dev eth0 nodad",
  "route add 10.92.0.0/16 dev eth0",
  "route add blackhole 10.91.0.0/16",
  "neigh add 10.93.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
  "link set eth0 down",
  "link del eth0",
])("ip %s", async (change) => {
  await silence();
  await ip(change);
  await told();
});

test("not a neighbour that was asked for, nor a tap of ours, from its making to its end", async () => {
  await silence();
  await ip("neigh add 10.93.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud reachable");
  {
    using _tap = inNetns(netns.path, () => openTap("hearth0"));
    await ip("link set dev hearth0 mtu 1400 up");
    await ip("link set dev hearth0 down");
  }
  await expect(watch.next(AbortSignal.timeout(SILENCE_MS))).rejects.toThrow("timed out");
  await ip("link set eth0 mtu 1400");
  await told();
});
