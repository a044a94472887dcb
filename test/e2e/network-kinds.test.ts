/** Every kind of interface that reaches a VM, in one namespace at once: addresses of both families, routes, neighbours, traffic both ways. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import { dup } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { FdWriter } from "../../src/sys/fd-writer.ts";
import { inNetns } from "../../src/sys/namespace.ts";
import { spawnProcess, terminate } from "../../src/sys/process.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { openTap } from "../../src/sys/tap.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";
import { runProgram } from "../harness/program.ts";

const id = `hearth-kinds-${process.pid}`;
const peer = `${id}-peer`;
const TIMEOUT_MS = 180_000;
/** This machine's kernel has no ipvlan. */
const KINDS = ["veth", "macvlan", "veth", "tap"] as const;

const ip = (netns: string, ...args: string[]): Promise<string> => runOrThrow(["ip", "-n", netns, ...args]);

/** Ends of taps, closed when all is over. */
const taps: Disposable[] = [];

/** As a network in user space does: whoever made the tap reads its packets, here to write them to another. */
async function joinTaps(...ends: readonly [readonly [string, string], readonly [string, string]]): Promise<void> {
  const [a, b] = ends.map(([netns, name]) => inNetns(`/run/netns/${netns}`, () => openTap(name)));
  if (a === undefined || b === undefined) throw new Error("no taps");
  // Writing to one that is down fails.
  for (const [netns, name] of ends) await ip(netns, "link", "set", name, "up");
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    const reader = new FdReader(dup(from.fd));
    const writer = new FdWriter(dup(to.fd));
    taps.push(reader, writer);
    const copy = async (): Promise<void> => {
      for (let frame = await reader.read(); frame !== null; frame = await reader.read()) {
        await writer.write(frame);
      }
    };
    copy().catch(() => undefined);
  }
  taps.push(a, b);
}

/** The namespace of the container has `eth<n>` of each kind, the peer's end of it is 10.99.<n>.1 and fd99:a<n>::1. */
beforeAll(async () => {
  for (const name of [id, peer]) await runOrThrow(["ip", "netns", "add", name]);
  for (const [index, kind] of KINDS.entries()) {
    const near = `eth${index}`;
    const far = `far${index}`;
    const wire = kind === "veth" ? near : `wire${index}`;
    if (kind === "tap") await joinTaps([id, near], [peer, far]);
    else await ip(peer, "link", "add", far, "type", "veth", "peer", "name", wire, "netns", kind === "veth" ? id : peer);
    if (kind === "macvlan") {
      // It rides on the other end of a wire, which stays outside of the container.
      await ip(peer, "link", "set", wire, "up");
      await ip(peer, "link", "add", "link", wire, "name", near, "netns", id, "type", kind, "mode", "bridge");
    }
    for (const [netns, device, host] of [
      [peer, far, 1],
      [id, near, 2],
    ] as const) {
      await ip(netns, "addr", "add", `10.99.${index}.${host}/24`, "dev", device);
      await ip(netns, "addr", "add", `fd99:a${index}::${host}/64`, "dev", device, "nodad");
      await ip(netns, "link", "set", device, "up");
    }
  }
  await ip(peer, "link", "set", "lo", "up");
  await ip(id, "route", "add", "default", "via", "10.99.0.1");
  await ip(id, "-6", "route", "add", "default", "via", "fd99:a0::1");
  await ip(id, "route", "add", "192.0.2.0/24", "via", "10.99.1.1", "dev", "eth1");
  await ip(id, "neigh", "add", "10.99.0.77", "lladdr", "02:00:00:00:00:77", "dev", "eth0", "nud", "permanent");
});

afterAll(async () => {
  for (const tap of taps) tap[Symbol.dispose]();
  for (const name of [id, peer]) await runOrThrow(["ip", "netns", "del", name]);
});

async function bundleInNamespace(hearth: Hearth, script: string): Promise<string> {
  const namespaces = ["pid", "ipc", "uts", "mount"].map((type) => ({ type }));
  const network = { type: "network", path: `/run/netns/${id}` };
  const bounding = ["CAP_NET_RAW"];
  return await hearth.bundle({
    args: ["sh", "-c", script],
    config: {
      process: { capabilities: { bounding, effective: bounding, permitted: bounding } },
      linux: { namespaces: [...namespaces, network] },
    },
  });
}

test(
  "veth, macvlan and tap: addresses, routes, neighbours, and a megabyte each way over both families",
  async () => {
    const sent = randomBytes(1024 * 1024);
    const echo = spawnProcess({
      argv: ["busybox", "nc", "-ll", "-p", "5001", "-e", "/bin/cat"],
      netns: `/run/netns/${peer}`,
    });
    const server = "nc -ll -p 6000 -e /bin/cat";
    try {
      await withHearth({}, async (hearth) => {
        const script = `for n in 0 1 2 3; do
            ip -o addr show dev eth$n scope global | awk '{print $2, $4}'
            for to in 10.99.$n.1 fd99:a$n::1; do
              echo "$to $(nc -w 20 $to 5001 </random | sha256sum | cut -c1-64)"
            done
          done
          ip route | sed 's/ *$//' | sort; ip -6 route show default | awk '{print $1, $3, $5}'; ip neigh show nud permanent | sort
          ${server} & until grep -q :1770 /proc/net/tcp6; do sleep 0.1; done; echo listening; read line; kill $!`;
        const bundle = await bundleInNamespace(hearth, script);
        await Bun.write(`${bundle}/rootfs/random`, sent);
        const digest = createHash("sha256").update(sent).digest("hex");
        const child = Bun.spawn([hearth.runtimePath, "run", "--bundle", bundle, id], {
          argv0: "hearth-runtime",
          env: { PATH: process.env["PATH"] ?? "", ...hearth.env },
          stdio: ["pipe", "pipe", "pipe"],
        });
        let output = "";
        const decoder = new TextDecoder();
        for await (const chunk of child.stdout) {
          output += decoder.decode(chunk, { stream: true });
          if (!output.includes("listening\n") || child.stdin === undefined) continue;
          for (const to of KINDS.flatMap((_, n) => [`10.99.${n}.2`, `fd99:a${n}::2`])) {
            const argv = ["ip", "netns", "exec", peer, "busybox", "nc", "-w", "20", to, "6000"];
            const { bytes, status } = await runProgram(argv, { stdin: sent });
            expect({ to, status, digest: createHash("sha256").update(bytes).digest("hex") }).toEqual({
              to,
              status: 0,
              digest,
            });
          }
          child.stdin.write("\n");
          await child.stdin.end();
        }
        expect(await new Response(child.stderr).text()).not.toContain("error");
        expect(await child.exited).toBe(0);
        const perInterface = KINDS.flatMap((_, n) => [
          `eth${n} 10.99.${n}.2/24`,
          `eth${n} fd99:a${n}::2/64`,
          `10.99.${n}.1 ${digest}`,
          `fd99:a${n}::1 ${digest}`,
        ]);
        expect(output.trimEnd().split("\n")).toEqual([
          ...perInterface,
          ...KINDS.map((_, n) => expect.stringMatching(new RegExp(`^10\\.99\\.${n}\\.0/24 dev eth${n} `))),
          "192.0.2.0/24 via 10.99.1.1 dev eth1",
          "default via 10.99.0.1 dev eth0",
          "default fd99:a0::1 eth0",
          expect.stringMatching(/^10\.99\.0\.77 dev eth0 lladdr 02:00:00:00:00:77 .*PERMANENT$/),
          "listening",
        ]);
      });
      const left = await ip(id, "-o", "link");
      expect(left).not.toContain("hearth0");
      for (const n of KINDS.keys()) {
        expect(await runOrThrow(["tc", "-n", id, "qdisc", "show", "dev", `eth${n}`])).not.toContain("ingress");
      }
    } finally {
      await terminate(echo);
    }
  },
  TIMEOUT_MS,
);

test(
  "an interface that no packet can be redirected from is refused by name",
  async () => {
    await ip(id, "tuntap", "add", "dev", "odd0", "mode", "tun");
    await ip(id, "link", "set", "odd0", "up");
    try {
      await withHearth({}, async (hearth) => {
        const { status, stderr } = await hearth.runtime([
          "run",
          "--bundle",
          await bundleInNamespace(hearth, "true"),
          id,
        ]);
        expect(status).toBe(1);
        expect(stderr).toContain("connect interface odd0: it carries no Ethernet frames");
      });
    } finally {
      await ip(id, "link", "del", "odd0");
    }
  },
  TIMEOUT_MS,
);
