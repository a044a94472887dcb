/** linux.netDevices: interfaces of the host that the runtime moves into the container's network, and so into the VM. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";

const TIMEOUT_MS = 120_000;
const id = `hearth-devices-${process.pid}`;
const ip = (...args: string[]): Promise<string> => runOrThrow(["ip", ...args]);

/** Their peers stay on the host. */
beforeAll(async () => {
  await ip("netns", "add", id);
  for (const [name, net] of [
    ["own0", "10.98.0"],
    ["kept0", "10.98.1"],
  ] as const) {
    await ip("link", "add", name, "address", "02:00:00:00:98:01", "mtu", "1400", "type", "veth", "peer", `${name}p`);
    await ip("address", "add", `${net}.2/24`, "dev", name);
    await ip("address", "add", `${net}.1/24`, "dev", `${name}p`);
    await ip("link", "set", `${name}p`, "up");
  }
});
afterAll(async () => {
  // By themselves they go some time after the namespace of their peer.
  for (const peer of ["own0p", "kept0p"]) await ip("link", "del", peer).catch(() => "went with the container");
  await ip("netns", "del", id);
});

async function run(hearth: Hearth, network: object, netDevices: object, script: string) {
  const namespaces = [...["pid", "ipc", "uts", "mount"].map((type) => ({ type })), { type: "network", ...network }];
  const bounding = ["CAP_NET_RAW"];
  const bundle = await hearth.bundle({
    args: ["sh", "-ec", script],
    config: {
      process: { capabilities: { bounding, effective: bounding, permitted: bounding } },
      linux: { namespaces, netDevices },
    },
  });
  return await hearth.runtime(["run", "--bundle", bundle, id]);
}

test(
  "with their addresses, MAC and MTU, under another name; a namespace that goes on keeps them; a missing one is an error",
  async () => {
    await withHearth({}, async (hearth) => {
      const script = (device: string, peer: string): string => `
        cat /sys/class/net/${device}/address /sys/class/net/${device}/mtu
        ip -4 address show dev ${device} | grep -o 'inet [0-9./]*'
        ping -c 1 -w 20 ${peer} >/dev/null && echo reached`;
      const own = await run(hearth, {}, { own0: { name: "eth7" } }, script("eth7", "10.98.0.1"));
      expect(own).toMatchObject({
        status: 0,
        stdout: "02:00:00:00:98:01\n1400\ninet 10.98.0.2/24\nreached\n",
      });
      const path = `/run/netns/${id}`;
      const kept = await run(hearth, { path }, { kept0: {} }, script("kept0", "10.98.1.1"));
      expect(kept).toMatchObject({ status: 0, stdout: expect.stringContaining("reached") });
      expect(await ip("-n", id, "address", "show", "dev", "kept0")).toContain("10.98.1.2/24");
      const missing = await run(hearth, {}, { nowhere0: {} }, "true");
      expect(missing).toMatchObject({ status: 1, stderr: expect.stringContaining("nowhere0") });
    });
  },
  TIMEOUT_MS,
);
