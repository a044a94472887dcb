/** Routes, addresses and neighbours of a network namespace, with all that they can say of themselves, are those of the container. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { copyProgram } from "../harness/copy-program.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";

const id = `hearth-routes-${process.pid}`;
const peer = `${id}-peer`;
const TIMEOUT_MS = 120_000;

const ip = (...args: string[]): Promise<string> => runOrThrow(["ip", "-n", id, ...args]);
const SETUP = [
  "link set eth0 allmulticast on up",
  "addr add 10.99.0.2/24 brd + dev eth0 label eth0:first",
  "addr add 10.99.0.3/24 dev eth0",
  "addr add 10.98.0.1 peer 10.98.0.2/32 dev eth0 scope link",
  "addr add 10.97.0.1/24 dev eth0 noprefixroute",
  "addr add fd99::2/64 dev eth0 nodad",
  "addr add fd98::2/64 dev eth0 nodad preferred_lft 0 noprefixroute",
  "route add default via 10.99.0.1 proto static metric 100",
  "route add default via 10.99.0.4 metric 200 mtu 1300 advmss 1000 initcwnd 3 quickack 1",
  "route add 10.96.0.0/16 tos 0x10 via 10.99.0.1 src 10.99.0.3",
  "route add 10.96.0.0/16 nexthop via 10.99.0.1 weight 3 nexthop via 10.77.0.1 dev eth0 onlink",
  "route add blackhole 10.95.0.0/16 metric 5",
  "route add unreachable 10.94.0.0/16",
  "route add prohibit 10.93.0.0/16",
  "route add throw 10.92.0.0/16",
  "-6 route add default via fd99::1 metric 20 pref high",
  "-6 route add fd96::/64 via fe80::1 dev eth0",
  "-6 route add fd95::/64 nexthop via fd99::1 nexthop via fd99::4 weight 4",
  "-6 route add blackhole fd94::/64",
  "route add default via 10.99.0.7 table 1000",
  "route add 10.99.0.0/24 dev eth0 src 10.99.0.3 table 1000",
  "route add 10.90.0.0/16 via 10.99.0.8 table 5",
  "-6 route add default via fd99::7 table 1000",
  "rule add pref 100 from 10.99.0.3 table 1000",
  "rule add pref 101 not to 10.89.0.0/16 tos 0x10 fwmark 0x1/0xff iif lo ipproto tcp sport 10-20 dport 80 table 5",
  "rule add pref 102 table main suppress_prefixlength 0",
  "rule add pref 103 from 10.88.0.0/16 prohibit",
  "-6 rule add pref 100 from fd99::2 table 1000",
  "-6 rule del pref 32766",
  "-6 rule add pref 200 table main",
  "neigh add 10.99.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
  "neigh add fd99::9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent router",
];
/** What the namespace and the container have to answer alike; their interfaces have numbers of their own. */
const QUESTIONS = [
  "-4 route show",
  "-6 route show",
  "-4 route show table 1000",
  "-6 route show table 1000",
  "-4 route show table 5",
  "-N -4 rule show",
  "-N -6 rule show",
  // By its rule, one of them goes another way than the others.
  "route get 10.70.0.1 from 10.99.0.3",
  "route get 10.70.0.1 from 10.99.0.2",
  "-4 addr show dev eth0",
  "-6 addr show dev eth0 scope global",
  "neigh show nud permanent",
];
const comparable = (answer: string): string[] =>
  answer
    .split("\n")
    .map((line) => line.trim())
    // The link's own line says how it is connected; the tap is the namespace's alone; the kernel's own route to the
    // link-local network comes in its own time.
    .filter((line) => line !== "" && !/^\d+: |dev hearth\d|^fe80::\/64 dev eth0 proto kernel/.test(line));

beforeAll(async () => {
  for (const name of [id, peer]) await runOrThrow(["ip", "netns", "add", name]);
  await runOrThrow(["ip", "-n", peer, "link", "add", "far0", "type", "veth", "peer", "name", "eth0", "netns", id]);
  await runOrThrow(["ip", "-n", peer, "link", "set", "far0", "up"]);
  for (const line of SETUP) await ip(...line.split(" "));
});

afterAll(async () => {
  for (const name of [id, peer]) await runOrThrow(["ip", "netns", "del", name]);
});

async function runInNamespace(hearth: Hearth, script: string) {
  const namespaces = ["pid", "ipc", "uts", "mount"].map((type) => ({ type }));
  const network = { type: "network", path: `/run/netns/${id}` };
  const bundle = await hearth.bundle({
    args: ["sh", "-c", script],
    config: { linux: { namespaces: [...namespaces, network] } },
  });
  await copyProgram("/usr/sbin/ip", join(bundle, "rootfs"));
  return await hearth.runtime(["run", "--bundle", bundle, id]);
}

test(
  "metrics, several next hops, routes that refuse, tables and their rules, labels, peers, flags: iproute2 says the same inside and outside",
  async () => {
    const outside: string[] = [];
    for (const question of QUESTIONS) outside.push(question, ...comparable(await ip(...question.split(" "))));
    await withHearth({}, async (hearth) => {
      const script = QUESTIONS.map((question) => `echo "${question}"; /usr/bin/ip ${question}`).join("\n");
      const { status, stdout, stderr } = await runInNamespace(hearth, `${script}\ncat /sys/class/net/eth0/flags`);
      expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
      const inside = comparable(stdout);
      expect(Number(inside.pop()) & 0x200).toBe(0x200);
      expect(inside).toEqual(outside);
    });
  },
  TIMEOUT_MS,
);

test(
  "a rule that the guest cannot have is refused by name, and nothing is left",
  async () => {
    await ip("rule", "add", "pref", "300", "l3mdev");
    await withHearth({}, async (hearth) => {
      const { status, stderr } = await runInNamespace(hearth, "true");
      expect(status).toBe(1);
      expect(stderr).toContain("connect network: rule 300: l3mdev is not supported");
    });
    expect(await ip("-o", "link")).not.toContain("hearth0");
  },
  TIMEOUT_MS,
);
