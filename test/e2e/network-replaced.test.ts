/**
 * Interfaces that are replaced, taken away and changed while the container lives, as `podman network reload` and `network
 * disconnect` and `connect` do it: who connects right afterwards is served, and never refused by the host's namespace.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { vmPaths } from "../../src/paths.ts";
import { runOrThrow, runProcess } from "../../src/sys/run-process.ts";
import { type Hearth, type OpenHearth, openHearth } from "../harness/hearth.ts";
import { vmRecords } from "../harness/pool.ts";
import { until } from "../harness/until.ts";

const TIMEOUT_MS = 180_000;
const ID = `replaced-${crypto.randomUUID().slice(0, 8)}`;
const OUTSIDE = `${ID}-outside`;
const pathOf = (name: string) => `/run/netns/${name}`;
const MACS = ["02:00:00:00:00:95", "02:00:00:00:00:96", "02:00:00:00:00:97"] as const;
/** The second one echoes. */
const SERVERS = "nc -ll -p 81 -e /bin/cat & exec nc -ll -p 80 -e /bin/echo served";

let opened: OpenHearth;
let hearth: Hearth;
let wires = 0;

const ip = (name: string, lines: readonly string[]) =>
  runOrThrow(["ip", "-batch", "-"], { netns: pathOf(name), input: `${lines.join("\n")}\n` });

/** In the container. */
async function exec(script: string): Promise<string> {
  const { status, stdout, stderr } = await hearth.runtime(["exec", ID, "sh", "-c", script]);
  return status === 0 ? stdout.trim() : stderr;
}

/** What the server in the container says to who connects, or why it does not. */
async function connect(address: string): Promise<string> {
  const argv = ["busybox", "nc", "-w", "60", address, "80"] as const;
  const { stdout, stderr } = await runProcess(argv, { netns: pathOf(OUTSIDE) });
  return `${stdout}${stderr}`.trim();
}

interface Plugged {
  readonly mac: string;
  /** The last number of its addresses. */
  readonly host: number;
  readonly mtu?: number;
  /** Lines for `ip` at once before. */
  readonly before?: readonly string[];
}

/** An interface `eth0` with one end on a bridge, as an engine makes it; all at once. */
async function plug({ mac, host, mtu = 1500, before = [] }: Plugged): Promise<void> {
  const wire = `wire${++wires}`;
  await ip(ID, [
    ...before,
    `link add eth0 mtu ${mtu} type veth peer name ${wire} mtu ${mtu} netns ${OUTSIDE}`,
    `address add 10.95.0.${host}/24 dev eth0`,
    `address add fd95::${host}/64 dev eth0 nodad`,
    `link set eth0 address ${mac} up`,
    "route add default via 10.95.0.1",
  ]);
  await ip(OUTSIDE, [`link set ${wire} master bridge up`]);
}

beforeAll(async () => {
  opened = openHearth();
  hearth = opened.hearth;
  for (const name of [ID, OUTSIDE]) await runOrThrow(["ip", "netns", "add", name]);
  await ip(OUTSIDE, [
    "link add bridge type bridge",
    "address add 10.95.0.1/24 dev bridge",
    "address add fd95::1/64 dev bridge nodad",
    "link set bridge up",
  ]);
  await plug({ mac: MACS[0], host: 2 });
  const own = ["pid", "ipc", "uts", "mount"].map((type) => ({ type }));
  const namespaces = [...own, { type: "network", path: pathOf(ID) }];
  const bundle = await hearth.bundle({ args: ["sh", "-c", SERVERS], config: { linux: { namespaces } } });
  const outputPath = `${hearth.dir}/output`;
  const { status } = await hearth.runtime(["run", "--detach", "--bundle", bundle, ID], { outputPath });
  if (status !== 0) throw new Error(await Bun.file(outputPath).text());
  await until(
    () => connect("10.95.0.2"),
    (said) => said === "served",
  );
  await until(
    () => exec("netstat -ltn"),
    (seen) => seen.includes(":81 "),
  );
}, TIMEOUT_MS);

afterAll(async () => {
  await hearth.runtime(["delete", "--force", ID]);
  for (const name of [ID, OUTSIDE]) await runOrThrow(["ip", "netns", "del", name]);
  await opened.close();
}, TIMEOUT_MS);

/** What the sandbox process has said of interfaces. */
function said(): string {
  const [vm] = vmRecords(hearth.runDir);
  const text = vm === undefined ? "" : readFileSync(vmPaths(hearth.runDir, vm.vmId).sandboxLog, "utf8");
  return text
    .split("\n")
    .filter((line) => line.includes("interface"))
    .join("\n");
}

async function described(body: () => Promise<void>): Promise<void> {
  try {
    await body();
  } catch (thrown) {
    process.stderr.write(said());
    throw thrown;
  }
}

const indexInGuest = () => exec("cat /sys/class/net/eth0/ifindex");

test(
  "replaced by one of the same addresses: it keeps its NIC, the next connection is served, and one that lives goes on",
  () =>
    described(async () => {
      const index = await indexInGuest();
      const client = Bun.spawn(["nsenter", `--net=${pathOf(OUTSIDE)}`, "busybox", "nc", "10.95.0.2", "81"], {
        stdin: "pipe",
        stdout: "pipe",
      });
      const said = client.stdout.pipeThrough(new TextDecoderStream()).getReader();
      const echo = async (line: string) => {
        client.stdin.write(line);
        client.stdin.flush();
        expect((await said.read()).value).toBe(line);
      };
      await echo("before\n");
      await plug({ mac: MACS[0], host: 2, before: ["link del eth0"] });
      expect(await connect("10.95.0.2")).toBe("served");
      expect(await connect("fd95::2")).toBe("served");
      await echo("after\n");
      client.stdin.end();
      await client.exited;
      expect(await indexInGuest()).toBe(index);
    }),
  TIMEOUT_MS,
);

test(
  "replaced by one of another address, hardware address and MTU: it keeps its NIC",
  () =>
    described(async () => {
      const index = await indexInGuest();
      await plug({ mac: MACS[1], host: 3, mtu: 3000, before: ["link del eth0"] });
      expect(await connect("10.95.0.3")).toBe("served");
      expect(await connect("fd95::3")).toBe("served");
      expect(await exec("cd /sys/class/net/eth0; cat ifindex address mtu")).toBe(`${index}\n${MACS[1]}\n3000`);
      expect(await exec("ip -o addr show dev eth0")).not.toMatch(/10\.95\.0\.2|fd95::2/);
      expect(await exec("ip route")).toContain("default via 10.95.0.1 dev eth0");
    }),
  TIMEOUT_MS,
);

test(
  "taken away, and later another one under its name: the next connection is served",
  () =>
    described(async () => {
      await ip(ID, ["link del eth0"]);
      await until(
        () => exec("ip -o link"),
        (links) => !links.includes("eth0"),
      );
      await plug({ mac: MACS[2], host: 4 });
      expect(await connect("10.95.0.4")).toBe("served");
      expect(await connect("fd95::4")).toBe("served");
      // What was made for those that have gone went with them.
      const links = await runOrThrow(["ip", "-o", "link"], { netns: pathOf(ID) });
      expect(links.match(/hearth\d+/g)).toHaveLength(1);
    }),
  TIMEOUT_MS,
);

test(
  "changes of one that lives reach the guest: MTU, addresses, routes, neighbours, its name",
  () =>
    described(async () => {
      const seen = (script: string, wanted: string) =>
        until(
          () => exec(script),
          (text) => text.includes(wanted),
        );
      for (const mtu of [1400, 1500]) {
        await ip(ID, [`link set eth0 mtu ${mtu}`]);
        await seen("cat /sys/class/net/eth0/mtu", String(mtu));
      }
      await ip(ID, ["address add 10.95.0.5/24 dev eth0"]);
      await seen("ip -o addr show dev eth0", "10.95.0.5/24");
      expect(await connect("10.95.0.5")).toBe("served");
      await ip(ID, ["route add 10.77.0.0/16 via 10.95.0.1"]);
      await seen("ip route", "10.77.0.0/16 via 10.95.0.1");
      await ip(ID, ["route add 10.75.0.0/16 via 10.95.0.1 table 100", "rule add pref 100 from 10.95.0.9 table 100"]);
      await seen("ip route show table 100", "10.75.0.0/16 via 10.95.0.1");
      await seen("ip rule", "from 10.95.0.9 lookup 100");
      await ip(ID, ["rule del pref 100", "route del 10.75.0.0/16 table 100"]);
      await until(
        () => exec("ip rule; ip route show table 100"),
        (rules) => !rules.includes("10.95.0.9") && !rules.includes("10.75.0.0/16"),
      );
      await ip(ID, ["neigh add 10.95.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent"]);
      await seen("ip neigh show", "02:00:00:00:00:09");
      await ip(ID, ["link set eth0 down", "link set eth0 name net0", "link set net0 up"]);
      await seen("ip -o addr show dev net0", "10.95.0.5/24");
      expect(await connect("10.95.0.5")).toBe("served");
      await ip(ID, ["link set net0 down", "link set net0 name eth0", "link set eth0 up"]);
      await seen("ip -o addr show dev eth0", "10.95.0.5/24");
    }),
  TIMEOUT_MS,
);

test(
  "what the guest cannot have is logged, and what it can have is followed nevertheless",
  () =>
    described(async () => {
      await ip(ID, ["tuntap add dev tun7 mode tun", "link set tun7 up", "address add 10.95.0.6/24 dev eth0"]);
      const addresses = () => exec("ip -o addr show");
      await until(addresses, (seen) => seen.includes("10.95.0.6/24"));
      expect(said()).toContain("connect interface tun7: it carries no Ethernet frames");
      await ip(ID, ["route add 10.76.0.0/16 via 10.95.0.1 realm 7", "address add 10.95.0.7/24 dev eth0"]);
      await until(
        async () => said(),
        (log) => log.includes("route 10.76.0.0/16: flow is not supported"),
      );
      await until(addresses, (seen) => seen.includes("10.95.0.7/24"));
      await ip(ID, ["link del tun7", "route del 10.76.0.0/16"]);
      const wire = `link add eth1 type veth peer name far netns ${OUTSIDE}`;
      await ip(ID, [wire, "address add 10.94.0.2/24 dev eth1", "link set eth1 up"]);
      await ip(OUTSIDE, ["address add 10.94.0.1/24 dev far", "link set far up"]);
      // At once: the guest has not got it yet.
      for (const address of ["10.94.0.2", "10.95.0.7"]) expect(await connect(address)).toBe("served");
    }),
  TIMEOUT_MS,
);
