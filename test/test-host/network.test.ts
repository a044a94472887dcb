/**
 * Kinds of interfaces that this machine's kernel lacks, or has not in every mode: in one container of a test host, each on
 * a wire of its own to a peer.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { obstacleTo, parseInterfaces } from "../../src/network/interface-view.ts";
import { makeBundle } from "../harness/bundle.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";
import { NestedHearth } from "../harness/test-host/nested-hearth.ts";
import { TestHost } from "../harness/test-host/test-host.ts";

const TIMEOUT_MS = 1_200_000;
const ID = "kinds";
/** The container's namespace, the one of the parents of its interfaces, and that of the peers. */
const [NEAR, PARENTS, PEER] = ["near", "parents", "peer"] as const;
const LINKS = [
  { type: "ipvlan", mode: "l2", mtu: 1500 },
  { type: "ipvlan", mode: "l3", mtu: 1400 },
  { type: "macvlan", mode: "bridge", mtu: 1450 },
  { type: "macvlan", mode: "private", mtu: 1500 },
  { type: "macvlan", mode: "vepa", mtu: 1500 },
  { type: "macvlan", mode: "passthru", mtu: 1300 },
] as const;

const all = <T>(make: (n: number, link: (typeof LINKS)[number]) => T): T[] => LINKS.map((link, n) => make(n, link));

/** `eth<n>` is 10.99.<n>.2 and fd99:a<n>::2, its peer ::1. What is in mode L3 is reached through its parent, ::3. */
const NETWORK = [
  ...[NEAR, PARENTS, PEER].map((name) => `ip netns add ${name}`),
  ...all(
    (n, { type, mode, mtu }) => `
    ip -n ${PEER} link add far${n} type veth peer name wire${n} netns ${PARENTS}
    ip -n ${PEER} link set far${n} up
    ip -n ${PARENTS} link set wire${n} up
    ip -n ${PARENTS} link add link wire${n} name eth${n} netns ${NEAR} type ${type} mode ${mode}
    ip -n ${NEAR} link set eth${n} mtu ${mtu}
    for at in "${PEER} far${n} 1" "${NEAR} eth${n} 2" ${mode === "l3" ? `"${PARENTS} wire${n} 3"` : ""}; do
      set -- $at
      ip -n $1 addr add 10.99.${n}.$3/24 dev $2
      ip -n $1 addr add fd99:a${n}::$3/64 dev $2 nodad
      ip -n $1 link set $2 up
    done
    ${mode === "l3" ? `ip -n ${PEER} route add 10.99.${n}.2 via 10.99.${n}.3` : ""}
    ${mode === "l3" ? `ip -n ${PEER} route add fd99:a${n}::2 via fd99:a${n}::3` : ""}`,
  ),
  `ip -n ${PEER} link set lo up`,
].join("\n");

const SENT = "the same to everybody, there and back";
/** What each interface is, what its peer answers over both families, then a server for the other direction. */
const SCRIPT = `
  for n in ${all((n) => n).join(" ")}; do
    cd /sys/class/net/eth$n; echo eth$n $(cat address mtu) $(( ($(cat flags) & 0x80) != 0 ))
    for to in 10.99.$n.1 fd99:a$n::1; do echo "$to $(echo '${SENT}' | nc -w 60 $to 5001)"; done
  done
  ip -6 -o addr show scope link | awk '{print $2, $4}'
  nc -ll -p 6000 -e /bin/cat & until grep -q :1770 /proc/net/tcp6; do sleep 0.1; done; echo listening; wait`;

let files: Scratch;
let host: TestHost;
let hearth: NestedHearth;
beforeAll(async () => {
  files = scratch();
  const namespaces = ["pid", "ipc", "uts", "mount"].map((type) => ({ type }));
  const network = { type: "network", path: `/run/netns/${NEAR}` };
  await makeBundle(files.path("bundle"), {
    args: ["sh", "-c", SCRIPT],
    config: { linux: { namespaces: [...namespaces, network] } },
  });
  host = await TestHost.start();
  hearth = await NestedHearth.make(host, "network", {});
  await host.sh(`set -e\nmodprobe tun\n${NETWORK}`);
}, TIMEOUT_MS);
afterAll(async () => {
  await host[Symbol.asyncDispose]();
  files[Symbol.dispose]();
});

test(
  "ipvlan and macvlan in their modes: MAC address, MTU, and traffic both ways over both families",
  () =>
    hearth.explained(async () => {
      const echo = host.sh(`exec ip netns exec ${PEER} busybox nc -ll -p 5001 -e /bin/cat`, { timeoutMs: TIMEOUT_MS });
      echo.catch(() => undefined);
      await hearth.start(ID, files.path("bundle"));
      await host.sh(`until grep -q listening /tmp/${ID}.out; do sleep 1; done`, { timeoutMs: TIMEOUT_MS });
      const expected = await Promise.all(
        all(async (n, { type, mode, mtu }) => {
          const mac = await host.sh(`ip netns exec ${NEAR} cat /sys/class/net/eth${n}/address`);
          // The parent's, which is why the host tells them apart by their IP addresses.
          if (type === "ipvlan") {
            expect(mac).toBe(await host.sh(`ip netns exec ${PARENTS} cat /sys/class/net/wire${n}/address`));
          }
          const noArp = mode === "l3" ? 1 : 0;
          return [`eth${n} ${mac} ${mtu} ${noArp}`, `10.99.${n}.1 ${SENT}`, `fd99:a${n}::1 ${SENT}`];
        }),
      );
      const linkLocal = await host.sh(`ip -n ${NEAR} -6 -o addr show scope link | awk '$2 ~ /^eth/ {print $2, $4}'`);
      // Its create has written its log there too.
      const said = (await host.sh(`grep -v ^time= /tmp/${ID}.out`)).split("\n");
      expect(said).toEqual([...expected.flat(), ...linkLocal.split("\n"), "listening"]);
      for (const to of all((n) => [`10.99.${n}.2`, `fd99:a${n}::2`]).flat()) {
        const answer = await host.sh(`echo '${SENT}' | ip netns exec ${PEER} busybox nc -w 60 ${to} 6000`);
        expect(`${to} ${answer}`).toBe(`${to} ${SENT}`);
      }
    }),
  TIMEOUT_MS,
);

test(
  "a second interface of an ipvlan's parent has its MAC address: it is refused by name, and the first goes on",
  () =>
    hearth.explained(async () => {
      await host.sh(`
        ip -n ${PARENTS} link add link wire0 name twin netns ${NEAR} type ipvlan mode l2
        ip -n ${NEAR} link set twin up
        until grep -q 'interface eth0 has its MAC address' ${hearth.runDir}/vm/*/sandbox.log; do sleep 1; done
        ip -n ${NEAR} link del twin`);
      expect(await host.sh(`echo on | ip netns exec ${PEER} busybox nc -w 60 10.99.0.2 6000`)).toBe("on");
    }),
  TIMEOUT_MS,
);

test("an ipvlan in mode l3s is known by what ip says of it", async () => {
  const addresses = await host.sh(`
    ip netns add odd && ip -n odd link add wire0 type dummy && ip -n odd link add link wire0 name odd0 type ipvlan mode l3s
    ip -n odd -json -details address show`);
  const { interfaces } = parseInterfaces(addresses);
  const odd = interfaces.find(({ name }) => name === "odd0");
  if (odd === undefined) throw new Error(addresses);
  expect(obstacleTo(odd)).toContain("mode l3s");
});

test(
  "nothing is left: no tap, no filter, no process, no mount, no directory of a VM",
  async () => {
    await hearth.runtime("delete", "--force", ID);
    const taps = `ip -n ${NEAR} -o link | grep hearth || true`;
    const filters = all((n) => `tc -n ${NEAR} qdisc show dev eth${n} | grep ingress || true`).join("\n");
    expect(await host.sh(`${taps}\n${filters}`)).toBe("");
    expect(await NestedHearth.leftovers(host)).toBe("");
  },
  TIMEOUT_MS,
);
