/** A network namespace with an interface, as CNI leaves it: the container has it, and packets go both ways. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { spawnProcess, terminate } from "../../src/sys/process.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { withHearth } from "../harness/hearth.ts";
import { until } from "../harness/until.ts";

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

/** As `docker network connect` does to a container that runs. */
async function addLaterInterface(): Promise<void> {
  await runOrThrow(["ip", "-n", peer, "link", "add", "veth1", "type", "veth", "peer", "name", "later", "netns", id]);
  await runOrThrow(["ip", "-n", peer, "addr", "add", "10.97.0.1/24", "dev", "veth1"]);
  await runOrThrow(["ip", "-n", peer, "link", "set", "veth1", "up"]);
  await runOrThrow(["ip", "-n", id, "link", "set", "later", "name", "eth1"]);
  await runOrThrow(["ip", "-n", id, "addr", "add", "10.97.0.2/24", "dev", "eth1"]);
  await runOrThrow(["ip", "-n", id, "link", "set", "eth1", "up"]);
}

test(
  "address, MTU, routes, and a connection to the other end of the wire, over an interface that comes later too",
  async () => {
    const server = spawnProcess({
      argv: ["busybox", "nc", "-ll", "-p", "5000", "-e", "/bin/echo", "from the peer"],
      netns: `/run/netns/${peer}`,
    });
    try {
      await withHearth({}, async (hearth) => {
        const script = `ip -4 -o addr show eth0 | awk '{print $4}'; cat /sys/class/net/eth0/mtu
          ip route | grep -v 10.97 | sed 's/ *$//'; nc -w 10 10.98.0.1 5000 </dev/null
          until ip -4 -o addr show eth1 2>/dev/null | grep -q 10.97.0.2; do sleep 0.1; done
          nc -w 10 10.97.0.1 5000 </dev/null`;
        const namespaces = ["pid", "ipc", "uts", "mount"].map((type) => ({ type }));
        const network = { type: "network", path: `/run/netns/${id}` };
        const bundle = await hearth.bundle({
          args: ["sh", "-c", script],
          config: { linux: { namespaces: [...namespaces, network] } },
        });
        const running = hearth.runtime(["run", "--bundle", bundle, id]);
        const links = () => runOrThrow(["ip", "-n", id, "-o", "link"]);
        await Promise.race([running, until(links, (seen) => seen.includes("hearth0"))]);
        await addLaterInterface();
        const { status, stdout, stderr } = await running;
        expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
        expect(stdout.trimEnd().split("\n")).toEqual([
          "10.98.0.2/24",
          "1400",
          "default via 10.98.0.1 dev eth0",
          expect.stringMatching(/^10\.98\.0\.0\/24 dev eth0 .*src 10\.98\.0\.2$/),
          "from the peer",
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

test(
  "an interface that another of the same name replaces at once, as `podman network reload` does it",
  async () => {
    const makeInterface = (number: number) => [
      `link add eth0 type veth peer name again0 netns ${peer}`,
      `address add 10.95.${number}.2/24 dev eth0`,
      "link set eth0 address 02:00:00:00:00:95 up",
    ];
    const inNamespace = (path: string, lines: readonly string[]) =>
      runOrThrow(["ip", "-batch", "-"], { netns: path, input: `${lines.join("\n")}\n` });
    const up = ["link set again0 up"];
    const again = `${id}-again`;
    const netns = `/run/netns/${again}`;
    await runOrThrow(["ip", "netns", "add", again]);
    try {
      await inNamespace(netns, makeInterface(1));
      await inNamespace(`/run/netns/${peer}`, up);
      await withHearth({}, async (hearth) => {
        const script = `echo ready
          until ip -4 -o addr show eth0 2>/dev/null | grep -q 10.95.2.2; do sleep 0.1; done
          ip -o link show eth0 | grep -o 02:00:00:00:00:95`;
        const network = { type: "network", path: netns };
        const namespaces = ["pid", "ipc", "uts", "mount"].map((type) => ({ type }));
        const bundle = await hearth.bundle({
          args: ["sh", "-c", script],
          config: { linux: { namespaces: [...namespaces, network] } },
        });
        const outputPath = join(hearth.dir, "output");
        const running = hearth.runtime(["run", "--bundle", bundle, again], { outputPath });
        const output = async () => (existsSync(outputPath) ? readFileSync(outputPath, "utf8") : "");
        await Promise.race([running, until(output, (seen) => seen.includes("ready"))]);
        await inNamespace(netns, ["link del eth0", ...makeInterface(2)]);
        await inNamespace(`/run/netns/${peer}`, up);
        const { status } = await running;
        expect({ status, output: await output() }).toEqual({ status: 0, output: "ready\n02:00:00:00:00:95\n" });
      });
    } finally {
      await runOrThrow(["ip", "netns", "del", again]);
    }
  },
  TIMEOUT_MS,
);

test(
  "an interface that is made between create and start, as `ctr run --cni` does it, is there at the start",
  async () => {
    await withHearth({}, async (hearth) => {
      const bundle = await hearth.bundle({
        args: ["sh", "-c", "ip -4 -o addr show eth0 | awk '{print $4}'; ip route | wc -l; echo end"],
      });
      const outputPath = join(hearth.dir, "output");
      const pidFile = join(hearth.dir, "pid");
      const created = await hearth.runtime(["create", "--bundle", bundle, "--pid-file", pidFile, id], { outputPath });
      expect({ status: created.status, output: created.stdout }).toEqual({ status: 0, output: "" });
      const inside = ["nsenter", `--net=/proc/${readFileSync(pidFile, "utf8")}/ns/net`, "ip"] as const;
      await runOrThrow([...inside, "link", "add", "eth0", "type", "veth", "peer", "name", "far", "netns", peer]);
      await runOrThrow([...inside, "addr", "add", "10.96.0.2/24", "dev", "eth0"]);
      await runOrThrow([...inside, "link", "set", "eth0", "up"]);
      await runOrThrow([...inside, "route", "add", "default", "via", "10.96.0.1"]);
      expect(await hearth.runtime(["start", id])).toMatchObject({ status: 0, stderr: "" });
      const output = await until(
        async () => readFileSync(outputPath, "utf8"),
        (seen) => seen.includes("end"),
      );
      expect(output).toBe("10.96.0.2/24\n2\nend\n");
      expect(await hearth.runtime(["delete", "--force", id])).toMatchObject({ status: 0 });
    });
  },
  TIMEOUT_MS,
);
