/** A network namespace with an interface, as CNI leaves it: the container has it, and packets go both ways. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { spawnProcess, terminate } from "../../src/sys/process.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { withHearth } from "../harness/hearth.ts";

const id = `hearth-net-${process.pid}`;
const peer = `${id}-peer`;
const TIMEOUT_MS = 120_000;

beforeAll(async () => {
  for (const name of [id, peer]) await runOrThrow(["ip", "netns", "add", name]);
  await runOrThrow(["ip", "-n", peer, "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", id]);
  await runOrThrow(["ip", "-n", peer, "addr", "add", "10.98.0.1/24", "dev", "veth0"]);
  await runOrThrow(["ip", "-n", peer, "link", "set", "veth0", "up"]);
  await runOrThrow(["ip", "-n", id, "addr", "add", "10.98.0.2/24", "dev", "eth0"]);
  await runOrThrow(["ip", "-n", id, "link", "set", "eth0", "mtu", "1400", "up"]);
  await runOrThrow(["ip", "-n", id, "route", "add", "default", "via", "10.98.0.1"]);
});

afterAll(async () => {
  for (const name of [id, peer]) await runOrThrow(["ip", "netns", "del", name]);
});

test(
  "address, MTU, routes, and a connection to the other end of the wire",
  async () => {
    const server = spawnProcess({
      argv: ["busybox", "nc", "-ll", "-p", "5000", "-e", "/bin/echo", "from the peer"],
      netns: `/run/netns/${peer}`,
    });
    try {
      await withHearth({}, async (hearth) => {
        const script = `ip -4 -o addr show eth0 | awk '{print $4}'; cat /sys/class/net/eth0/mtu
          ip route | sed 's/ *$//'; nc -w 10 10.98.0.1 5000 </dev/null`;
        const namespaces = ["pid", "ipc", "uts", "mount"].map((type) => ({ type }));
        const network = { type: "network", path: `/run/netns/${id}` };
        const bundle = await hearth.bundle({
          args: ["sh", "-c", script],
          config: { linux: { namespaces: [...namespaces, network] } },
        });
        const { status, stdout, stderr } = await hearth.runtime(["run", "--bundle", bundle, id]);
        expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
        expect(stdout.trimEnd().split("\n")).toEqual([
          "10.98.0.2/24",
          "1400",
          "default via 10.98.0.1 dev eth0",
          expect.stringMatching(/^10\.98\.0\.0\/24 dev eth0 .*src 10\.98\.0\.2$/),
          "from the peer",
        ]);
      });
      // The tap went with the VM, and the filters with the container.
      expect(await runOrThrow(["ip", "-n", id, "-o", "link"])).not.toContain("hearth0");
      expect(await runOrThrow(["tc", "-n", id, "qdisc", "show", "dev", "eth0"])).not.toContain("ingress");
    } finally {
      await terminate(server);
    }
  },
  TIMEOUT_MS,
);
