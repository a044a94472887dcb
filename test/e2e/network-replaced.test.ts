/**
 * Interfaces that are replaced, changed and taken away while the container lives, as `podman network reload` and `network
 * disconnect` and `connect` do it: who connects right afterwards is served, and never refused by the host's namespace.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { runOrThrow, runProcess } from "../../src/sys/run-process.ts";
import { type Hearth, type OpenHearth, openHearth } from "../harness/hearth.ts";
import { until } from "../harness/until.ts";

const TIMEOUT_MS = 180_000;
const ID = `hearth-replaced-${crypto.randomUUID().slice(0, 8)}`;
const OUTSIDE = `${ID}-outside`;
const NETNS = { [ID]: `/run/netns/${ID}`, [OUTSIDE]: `/run/netns/${OUTSIDE}` };
const MAC = "02:00:00:00:00:95";

let opened: OpenHearth;
let hearth: Hearth;
let wires = 0;

const ip = (name: string, lines: readonly string[]) =>
  runOrThrow(["ip", "-batch", "-"], { netns: `/run/netns/${name}`, input: `${lines.join("\n")}\n` });
const exec = async (script: string) => (await hearth.runtime(["exec", ID, "sh", "-c", script])).stdout.trim();
/** What the server in the container says to who connects. */
const connect = async (address: string) => {
  const { stdout, stderr } = await runProcess(["busybox", "nc", "-w", "60", address, "80"], {
    netns: `/run/netns/${OUTSIDE}`,
  });
  return `${stdout}${stderr}`.trim();
};

/** An interface with one end on the bridge, as a container engine makes it; `before` is done at once before. */
async function plug(name: string, mac: string, address: string, before: readonly string[] = []): Promise<void> {
  const wire = `wire${++wires}`;
  await ip(ID, [
    ...before,
    `link add ${name} type veth peer name ${wire} netns ${OUTSIDE}`,
    `link set ${name} address ${mac}`,
    `address add ${address}/24 dev ${name}`,
    `link set ${name} up`,
    "route add default via 10.95.0.1",
  ]);
  await ip(OUTSIDE, [`link set ${wire} master bridge up`]);
}

beforeAll(async () => {
  opened = openHearth();
  hearth = opened.hearth;
  for (const name of [ID, OUTSIDE]) await runOrThrow(["ip", "netns", "add", name]);
  await ip(OUTSIDE, ["link add bridge type bridge", "address add 10.95.0.1/24 dev bridge", "link set bridge up"]);
  await plug("eth0", MAC, "10.95.0.2");
  const namespaces = [
    ...["pid", "ipc", "uts", "mount"].map((type) => ({ type })),
    { type: "network", path: NETNS[ID] },
  ];
  const bundle = await hearth.bundle({
    args: ["nc", "-ll", "-p", "80", "-e", "/bin/echo", "served"],
    config: { linux: { namespaces } },
  });
  const run = await hearth.runtime(["run", "--detach", "--bundle", bundle, ID], { outputPath: `${hearth.dir}/output` });
  if (run.status !== 0) throw new Error(await Bun.file(`${hearth.dir}/output`).text());
  expect(
    await until(
      () => connect("10.95.0.2"),
      (said) => !said.includes("refused"),
    ),
  ).toBe("served");
}, TIMEOUT_MS);

afterAll(async () => {
  await hearth.runtime(["delete", "--force", ID]);
  for (const name of [ID, OUTSIDE]) await runOrThrow(["ip", "netns", "del", name]);
  await opened.close();
}, TIMEOUT_MS);

test(
  "replaced by one of the same addresses: the next connection is served, and one that lives goes on",
  async () => {
    const t = performance.now();
    await plug("eth0", MAC, "10.95.0.2", ["link del eth0"]);
    console.log("plugged", performance.now() - t);
    const said = await connect("10.95.0.2");
    console.log("said", said, performance.now() - t);
    console.log(opened.describe().slice(0, 6000));
    expect(said).toBe("served");
  },
  TIMEOUT_MS,
);

test(
  "taken away, and later another one under its name: the next connection is served",
  async () => {
    await ip(ID, ["link del eth0"]);
    await until(
      () => exec("ip -o link"),
      (links) => !links.includes("eth0"),
    );
    const t = performance.now();
    await plug("eth0", "02:00:00:00:00:96", "10.95.0.3");
    console.log("plugged", performance.now() - t);
    const said = await connect("10.95.0.3");
    console.log("said", said, performance.now() - t);
    console.log(opened.describe().slice(-6000));
    expect(said).toBe("served");
  },
  TIMEOUT_MS,
);
