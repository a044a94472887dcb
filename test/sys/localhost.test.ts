/** Every TCP connection to localhost of a network namespace, taken by us; the clients are real programs in it. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { readdirSync, writeFileSync } from "node:fs";
import { basename } from "node:path";
import { SystemError } from "../../src/errors.ts";
import { chunks } from "../../src/sys/byte-stream.ts";
import { O_RDONLY, openFd } from "../../src/sys/fd.ts";
import { ignoreArrivals, type OnLocalhostConnection, takeLocalhost } from "../../src/sys/localhost.ts";
import { spawnProcess, terminate } from "../../src/sys/process.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { steerLocalhost } from "../../src/sys/sk-lookup.ts";
import { type EngineNetns, makeEngineNetns } from "../harness/netns.ts";
import { mustRunProgram, type ProgramResult, runProgram } from "../harness/program.ts";
import { scratch } from "../harness/scratch.ts";
import { until } from "../harness/until.ts";

let netns: EngineNetns;
beforeEach(async () => {
  netns = await makeEngineNetns();
});
afterEach(() => netns[Symbol.asyncDispose]());

const nc = (address: string, port: number, stdin: Uint8Array | string = ""): Promise<ProgramResult> =>
  runProgram(netns.inside(["busybox", "nc", address, String(port)]), { stdin });

/** Says where a connection went to, and then what came over it. */
const echo: OnLocalhostConnection = async (stream, address, port) => {
  await stream.write(Buffer.from(`${address} ${port}: `));
  for await (const chunk of chunks(stream)) await stream.write(chunk);
  stream.endWrite();
  stream.close();
};

test.each([
  ["127.0.0.1", 1],
  ["127.0.0.1", 65_535],
  ["::1", 8080],
])("%s port %p is ours, both ways and to both ends", async (address, port) => {
  using _taken = takeLocalhost(netns.path, echo);
  const { status, stdout } = await nc(address, port, "said");
  expect({ status, stdout }).toEqual({ status: 0, stdout: `${address} ${port}: said` });
});

test("other addresses are not, and nothing is afterwards", async () => {
  {
    using _taken = takeLocalhost(netns.path, echo);
    const server = spawnProcess({
      argv: ["busybox", "nc", "-ll", "-p", "53", "-e", "/bin/echo", "names"],
      netns: netns.path,
    });
    try {
      const seen = await until(
        () => nc("127.0.0.11", 53),
        ({ status }) => status === 0,
      );
      expect(seen.stdout).toBe("names\n");
      expect((await nc("127.0.0.1", 53)).stdout).toBe("127.0.0.1 53: ");
      expect((await nc("127.0.0.2", 80)).stderr).toContain("refused");
    } finally {
      await terminate(server);
    }
  }
  expect((await nc("127.0.0.1", 80)).stderr).toContain("refused");
  expect((await nc("::1", 80)).stderr).toContain("refused");
});

test("what arrives from outside is neither taken nor refused; from within it is as before", async () => {
  await using outside = await makeEngineNetns();
  await mustRunProgram(
    netns.inside(["ip", "link", "add", "in0", "type", "veth", "peer", "name", "out0", "netns", basename(outside.path)]),
  );
  for (const [name, device, end] of [
    [netns, "in0", 2],
    [outside, "out0", 1],
  ] as const) {
    await mustRunProgram(name.inside(["ip", "addr", "add", `10.94.0.${end}/24`, "dev", device]));
    await mustRunProgram(name.inside(["ip", "addr", "add", `fd94::${end}/64`, "dev", device, "nodad"]));
    await mustRunProgram(name.inside(["ip", "link", "set", device, "up"]));
  }
  const connect = (from: EngineNetns, address: string) =>
    runProgram(from.inside(["busybox", "nc", "-w", "1", address, "80"]), {});
  const addresses = ["10.94.0.2", "fd94::2"];
  {
    using _ignoring = ignoreArrivals(netns.path);
    using _taken = takeLocalhost(netns.path, echo);
    for (const address of addresses) {
      expect((await connect(outside, address)).stderr).toContain("timed out");
      expect((await connect(netns, address)).stderr).toContain("refused");
    }
    expect((await nc("127.0.0.1", 80, "said")).stdout).toBe("127.0.0.1 80: said");
  }
  for (const address of addresses) expect((await connect(outside, address)).stderr).toContain("refused");
});

test("loopback that is down at first, and a namespace without IPv6", async () => {
  await mustRunProgram(netns.inside(["ip", "link", "set", "lo", "down"]));
  await mustRunProgram(netns.inside(["sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"]));
  using _taken = takeLocalhost(netns.path, echo);
  await mustRunProgram(netns.inside(["ip", "link", "set", "lo", "up"]));
  expect((await nc("127.0.0.1", 80, "said")).stdout).toBe("127.0.0.1 80: said");
});

test("a client that reads late gets all of what was sent before the end", async () => {
  const bytes = Buffer.alloc(3_000_000, "some bytes ");
  using _taken = takeLocalhost(netns.path, async (stream) => {
    for await (const _chunk of chunks(stream));
    await stream.write(bytes);
    stream.endWrite();
    stream.close();
  });
  using files = scratch();
  const gate = files.path("gate");
  await runOrThrow(["mkfifo", gate]);
  const script = `busybox nc 127.0.0.1 80 </dev/null | { read _ <${gate}; sha256sum; }`;
  const reading = runProgram(netns.inside(["sh", "-c", script]));
  // Once our side has closed the connection the kernel knows it by one of the states after that.
  const sockets = () => runOrThrow(netns.inside(["ss", "-Htan"]) as [string, ...string[]]);
  await until(sockets, (seen) => /FIN-WAIT|LAST-ACK|TIME-WAIT/.test(seen));
  writeFileSync(gate, "go\n");
  expect((await reading).stdout).toStartWith(createHash("sha256").update(bytes).digest("hex"));
});

test("a failure is the system's, and leaves no descriptor open", () => {
  const descriptors = () => readdirSync("/proc/self/fd").length;
  const before = descriptors();
  // No network namespace.
  expect(() => takeLocalhost("/proc/self/ns/uts", echo)).toThrow(SystemError);
  {
    using namespace = openFd("/proc/self/ns/uts", O_RDONLY);
    expect(() => steerLocalhost(namespace.fd, namespace.fd)).toThrow(
      "steer connections: put socket into map: ENOTSOCK",
    );
  }
  expect(descriptors()).toBe(before);
});
