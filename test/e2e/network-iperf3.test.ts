/**
 * iperf3 between container and host and between two pods: TCP and UDP, both directions, IPv4 and IPv6, in VMs that were
 * booted for it and in VMs of the pool. What it measures is not looked at, machines being shared; that it sends all and
 * counts bytes at the other end is. That each arrives as it was sent is for the other network tests.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { O_CREAT, O_WRONLY, openFd } from "../../src/sys/fd.ts";
import { spawnProcess, terminate } from "../../src/sys/process.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { copyProgram } from "../harness/copy-program.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";
import { startPool } from "../harness/pool.ts";
import { type ProgramResult, runProgram } from "../harness/program.ts";
import { until } from "../harness/until.ts";

const IPERF3 = "/usr/bin/iperf3";
const TIMEOUT_MS = 300_000;
const BYTES = 1 << 20;

/** A bridge in a namespace that stands for the host, and two pods at it. */
const name = `hearth-iperf-${process.pid}`;
const NETNS = { host: name, server: `${name}-s`, client: `${name}-c` };
const ADDRESSES = {
  host: { v4: "10.95.0.1", v6: "fd95::1" },
  server: { v4: "10.95.0.2", v6: "fd95::2" },
  client: { v4: "10.95.0.3", v6: "fd95::3" },
};
const PODS = ["server", "client"] as const;

const ip = (netns: string, ...args: string[]): Promise<string> => runOrThrow(["ip", "-n", netns, ...args]);

async function configure(place: keyof typeof NETNS, device: string): Promise<void> {
  await ip(NETNS[place], "addr", "add", `${ADDRESSES[place].v4}/24`, "dev", device);
  await ip(NETNS[place], "addr", "add", `${ADDRESSES[place].v6}/64`, "dev", device, "nodad");
  await ip(NETNS[place], "link", "set", device, "up");
}

beforeAll(async () => {
  for (const netns of Object.values(NETNS)) await runOrThrow(["ip", "netns", "add", netns]);
  await ip(NETNS.host, "link", "add", "br0", "type", "bridge");
  for (const pod of PODS) {
    await ip(NETNS.host, "link", "add", pod, "type", "veth", "peer", "name", "eth0", "netns", NETNS[pod]);
    await ip(NETNS.host, "link", "set", pod, "master", "br0", "up");
    await configure(pod, "eth0");
  }
  await configure("host", "br0");
});

afterAll(async () => {
  for (const netns of Object.values(NETNS)) await runOrThrow(["ip", "netns", "del", netns]);
});

/** A container in the network namespace of that pod. */
async function startPod(hearth: Hearth, pod: (typeof PODS)[number], args: readonly string[]): Promise<string> {
  const namespaces = ["pid", "ipc", "uts", "mount"].map((type) => ({ type }));
  const network = { type: "network", path: `/run/netns/${NETNS[pod]}` };
  const bundle = await hearth.bundle({ args, config: { linux: { namespaces: [...namespaces, network] } } });
  await copyProgram(IPERF3, join(bundle, "rootfs"));
  const outputPath = join(hearth.dir, pod);
  const { status, stdout } = await hearth.runtime(["run", "--detach", "--bundle", bundle, NETNS[pod]], { outputPath });
  expect({ status, stdout: status === 0 ? "" : stdout }).toEqual({ status: 0, stdout: "" });
  return outputPath;
}

/** Between two runs a server does not listen for a moment, and resets who comes just then. */
class Server {
  readonly addresses: (typeof ADDRESSES)[keyof typeof ADDRESSES];
  readonly #outputPath: string;
  #runs = 0;

  constructor(addresses: Server["addresses"], outputPath: string) {
    this.addresses = addresses;
    this.#outputPath = outputPath;
  }

  /** Resolves when it listens for the next run, which is begun then. */
  async listening(): Promise<void> {
    this.#runs++;
    await until(
      async () => readFileSync(this.#outputPath, "utf8").split("Server listening").length - 1,
      (seen) => seen >= this.#runs,
    );
  }
}

const SERVE = ["iperf3", "--server", "--forceflush"] as const;

type Run = (argv: readonly string[]) => Promise<ProgramResult>;

const MODES = [
  ["v4", []],
  ["v4", ["--reverse"]],
  ["v6", []],
  ["v6", ["--reverse"]],
  ["v4", ["--udp", "--bitrate", "20M"]],
  ["v4", ["--udp", "--bitrate", "20M", "--reverse"]],
] as const;

async function expectTraffic(what: string, run: Run, server: Server): Promise<void> {
  for (const [family, args] of MODES) {
    await server.listening();
    const argv = ["iperf3", "--client", server.addresses[family], "--bytes", `${BYTES}`, "--json", ...args];
    const { status, stdout, stderr } = await run(argv);
    const title = `${what}: ${argv.join(" ")}`;
    expect({ title, status, stderr }).toEqual({ title, status: 0, stderr: "" });
    const { end, error } = JSON.parse(stdout);
    // With --json a failure has status 0.
    expect({ title, error }).toEqual({ title, error: undefined });
    const { sum_sent: sent, sum_received: received } = end;
    // A receiver stops counting when the sender has sent all, which is some time before all of it has come.
    expect(sent.bytes).toBeGreaterThanOrEqual(BYTES);
    expect(received.bytes).toBeGreaterThan(0);
  }
  const { status, stderr } = await run(["iperf3", "--client", server.addresses.v4, "--port", "9"]);
  expect({ what, status, stderr }).toEqual({
    what,
    status: 1,
    stderr: expect.stringContaining("unable to connect to server"),
  });
}

test.each([
  ["booted for it", 0],
  ["of the pool", PODS.length],
])(
  "VMs %s: host to container, container to host, pod to pod",
  async (_, number) => {
    await withHearth({ config: { factory: { vm_cache_number: number } } }, async (hearth) => {
      await using pool = number === 0 ? undefined : startPool(hearth, undefined);
      await pool?.idle(number);
      const hostPath = join(hearth.dir, "host");
      using output = openFd(hostPath, O_WRONLY | O_CREAT);
      const atHost = spawnProcess({
        argv: SERVE,
        netns: `/run/netns/${NETNS.host}`,
        stdio: ["ignore", output.fd, output.fd],
      });
      try {
        const [podPath] = await Promise.all([
          startPod(hearth, "server", SERVE),
          startPod(hearth, "client", ["sleep", "100000"]),
        ]);
        if (pool !== undefined) {
          expect(await pool.status()).toMatchObject({ hits: PODS.length, misses: 0 });
          // VMs in use go on without it, and new ones would take the time that iperf3 needs.
          await pool.stop();
        }
        const inPod = new Server(ADDRESSES.server, podPath);
        const onHost: Run = (argv) => runProgram(["ip", "netns", "exec", NETNS.host, ...argv]);
        const inClient: Run = (argv) => hearth.runtime(["exec", NETNS.client, ...argv]);
        await expectTraffic("host to container", onHost, inPod);
        await expectTraffic("container to host", inClient, new Server(ADDRESSES.host, hostPath));
        await expectTraffic("pod to pod", inClient, inPod);
      } finally {
        for (const pod of PODS) await hearth.runtime(["delete", "--force", NETNS[pod]]);
        await terminate(atHost);
      }
    });
    for (const pod of PODS) {
      expect(await ip(NETNS[pod], "-o", "link")).not.toContain("hearth0");
      expect(await runOrThrow(["tc", "-n", NETNS[pod], "qdisc", "show", "dev", "eth0"])).not.toContain("ingress");
    }
  },
  TIMEOUT_MS,
);
