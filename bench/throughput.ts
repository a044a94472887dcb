/**
 * How much of QEMU's own throughput reaches a container: the same kernel with the same virtiofsd and the same kind of tap,
 * once with a bare shell in it and once run by Hearth. Files are read and written in the guest, the network is measured
 * by a peer at the other end of the wire.
 */
import { closeSync, mkdirSync, openSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { BootOptions } from "../src/hypervisor/interface.ts";
import { launchQemu } from "../src/hypervisor/qemu/launch.ts";
import { vmPaths } from "../src/paths.ts";
import { openSharedDirectory } from "../src/storage/shared-directory.ts";
import { unmountTree } from "../src/sys/mount.ts";
import { inNetns } from "../src/sys/namespace.ts";
import { runOrThrow } from "../src/sys/run-process.ts";
import { openTap } from "../src/sys/tap.ts";
import type { Hearth } from "../test/harness/hearth.ts";
import { PATH } from "../test/harness/program.ts";
import { type Scratch, scratch } from "../test/harness/scratch.ts";
import { GuestShell, shellGuestOptions } from "../test/harness/shell-guest.ts";

const FILE_MIB = 64;
const NETWORK_MIB = 8;
const STDOUT_MIB = 100;
const ROUNDS = 5;
const BOOT_TIMEOUT_MS = 60_000;
const VIRTIOFSD = "/usr/lib/qemu/virtiofsd";
const PORT = 5002;

/** MiB a second: the median of ROUNDS after one that is not counted. */
export interface Throughput {
  readonly read: number;
  readonly write: number;
  readonly send: number;
}

export interface ThroughputRow {
  readonly name: string;
  /** MiB a second. */
  readonly value: number;
  /** Of what QEMU does with the same devices and nothing of ours; undefined where there is nothing to compare with. */
  readonly ofQemu: number | undefined;
}

export async function measureThroughput(hearth: Hearth): Promise<ThroughputRow[]> {
  const plain = await throughputOfQemu();
  const ours = await throughputOfContainer(hearth);
  const row = (name: string, key: keyof Throughput): ThroughputRow => ({
    name,
    value: ours[key],
    ofQemu: ours[key] / plain[key],
  });
  return [
    row("file read over virtio-fs, page cache dropped", "read"),
    row("file written over virtio-fs and flushed", "write"),
    row("TCP from container to host", "send"),
    { name: `${STDOUT_MIB} MiB through standard output`, value: await throughputOfStdout(hearth), ofQemu: undefined },
  ];
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

const DROP_CACHES = "echo 3 >/proc/sys/vm/drop_caches";
const readCommand = (file: string): string => `/bin/busybox dd if=${file} of=/dev/null bs=1M 2>/dev/null`;
const writeCommand = (file: string): string =>
  `/bin/busybox dd if=/dev/zero of=${file} bs=1M count=${FILE_MIB} conv=fsync 2>/dev/null`;

type Run = (command: string) => Promise<string>;

/** MiB a second; the way of a command into the guest and back counts, some milliseconds. */
async function speedOf(run: Run, command: string): Promise<number> {
  const startedAt = performance.now();
  await run(command);
  return FILE_MIB / ((performance.now() - startedAt) / 1000);
}

async function measureIn(run: Run, dir: string, net: Wire): Promise<Throughput> {
  return {
    read: await rounds(async () => {
      await run(DROP_CACHES);
      return await speedOf(run, readCommand(`${dir}/file`));
    }),
    write: await rounds(async () => {
      const speed = await speedOf(run, writeCommand(`${dir}/new`));
      await run(`/bin/busybox rm ${dir}/new`);
      return speed;
    }),
    send: await rounds(() => received(net, () => run(sendCommand(net.host)))),
  };
}

async function rounds(once: () => Promise<number>): Promise<number> {
  await once();
  const values: number[] = [];
  for (let round = 0; round < ROUNDS; round++) values.push(await once());
  return median(values);
}

async function throughputOfQemu(): Promise<Throughput> {
  await using stack = new AsyncDisposableStack();
  const place: Scratch = stack.use(scratch());
  const net = await wire(stack, "tap");
  const paths = vmPaths(place.dir, "v");
  mkdirSync(paths.dir, { recursive: true });
  stack.defer(() => void unmountTree(paths.dir, { detach: true }));
  const work = join(place.dir, "work");
  mkdirSync(work);
  writeFileSync(join(work, "file"), new Uint8Array(FILE_MIB << 20));
  const shared = stack.use(await openSharedDirectory({ paths, sharedFs: "virtio-fs", virtiofsdPath: VIRTIOFSD }));
  const options: BootOptions = { ...shellGuestOptions(place), memoryMib: 1024, devices: [shared.device] };
  const qemu = stack.use(await launchQemu(options, { signal: AbortSignal.timeout(BOOT_TIMEOUT_MS) }));
  await qemu.agentReady(AbortSignal.timeout(BOOT_TIMEOUT_MS));
  using guest = await GuestShell.connect(options);
  using tap = inNetns(net.path, () => openTap("tap0"));
  await runOrThrow(["ip", "-n", net.name, "addr", "add", `${net.host}/24`, "dev", "tap0"]);
  await runOrThrow(["ip", "-n", net.name, "link", "set", "tap0", "up"]);
  await qemu.addDevice({ kind: "nic", id: "nic0", tapFds: [tap.fd], mac: "02:00:00:00:00:07", mtu: 1500 });
  await guest.until("[ -e /sys/class/net/eth0 ]");
  await guest.run(`/bin/busybox ip addr add ${net.guest}/24 dev eth0; /bin/busybox ip link set eth0 up`);
  stack.use(await shared.expose(work, "files"));
  await guest.run("/bin/busybox mount -t virtiofs hearthShared /mnt");
  await guest.until("[ -e /mnt/files/file ]");
  return await measureIn((command) => guest.run(command), "/mnt/files", net);
}

const sendCommand = (to: string): string =>
  `/bin/busybox dd if=/dev/zero bs=64k count=${NETWORK_MIB * 16} 2>/dev/null | /bin/busybox nc -w 60 ${to} ${PORT}`;

/** MiB a second from the first byte that comes to the last. */
async function received(net: Wire, send: () => Promise<unknown>): Promise<number> {
  const listener = inNetns(net.path, () => listenOnce(net.host));
  try {
    const [speed] = await Promise.all([listener.speed, send()]);
    return speed;
  } finally {
    listener.stop();
  }
}

function listenOnce(hostname: string): { readonly speed: Promise<number>; stop(): void } {
  const { promise: speed, resolve, reject } = Promise.withResolvers<number>();
  let bytes = 0;
  let startedAt = 0;
  const server = Bun.listen({
    hostname,
    port: PORT,
    socket: {
      data: (_socket, chunk) => {
        if (bytes === 0) startedAt = performance.now();
        bytes += chunk.length;
      },
      close: () => {
        if (bytes === NETWORK_MIB << 20) resolve(NETWORK_MIB / ((performance.now() - startedAt) / 1000));
        else reject(new Error(`${bytes} bytes arrived of ${NETWORK_MIB} MiB`));
      },
    },
  });
  return { speed, stop: () => void server.stop(true) };
}

interface Wire {
  readonly name: string;
  readonly path: string;
  readonly host: string;
  readonly guest: string;
}

let wires = 0;

/** A namespace for the host's end; with "veth" another, `<name>-c`, for the container's. */
async function wire(stack: AsyncDisposableStack, kind: "tap" | "veth"): Promise<Wire> {
  const name = `hearth-bench-${process.pid}-${++wires}`;
  const names = kind === "veth" ? [name, `${name}-c`] : [name];
  for (const netns of names) {
    await runOrThrow(["ip", "netns", "add", netns]);
    stack.defer(async () => void (await runOrThrow(["ip", "netns", "del", netns])));
  }
  const net = { name, path: `/run/netns/${name}`, host: "10.97.0.1", guest: "10.97.0.2" };
  if (kind === "tap") return net;
  const inside = `${name}-c`;
  await runOrThrow(["ip", "-n", name, "link", "add", "host0", "type", "veth", "peer", "name", "eth0", "netns", inside]);
  for (const [netns, device, address] of [
    [name, "host0", net.host],
    [inside, "eth0", net.guest],
  ] as const) {
    await runOrThrow(["ip", "-n", netns, "addr", "add", `${address}/24`, "dev", device]);
    await runOrThrow(["ip", "-n", netns, "link", "set", device, "up"]);
  }
  return net;
}

async function throughputOfContainer(hearth: Hearth): Promise<Throughput> {
  await using stack = new AsyncDisposableStack();
  const net = await wire(stack, "veth");
  const work = join(hearth.dir, "throughput");
  mkdirSync(work);
  stack.defer(() => rmSync(work, { recursive: true, force: true }));
  writeFileSync(join(work, "file"), new Uint8Array(FILE_MIB << 20));
  const namespaces = ["pid", "ipc", "uts", "mount"].map((type) => ({ type }));
  const bundle = await hearth.bundle({
    args: ["sh"],
    config: {
      // Dropping the guest's page cache is a write to /proc/sys.
      linux: {
        namespaces: [...namespaces, { type: "network", path: `${net.path}-c` }],
        readonlyPaths: [],
        maskedPaths: [],
      },
      mounts: [
        { destination: "/proc", type: "proc", source: "proc" },
        { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["mode=755"] },
        { destination: "/work", type: "bind", source: work, options: ["rbind", "rw"] },
      ],
    },
  });
  const id = `bench-throughput-${process.pid}`;
  using shell = new ContainerShell(hearth, bundle, id);
  const result = await measureIn((command) => shell.run(command), "/work", net);
  await shell.end();
  return result;
}

/** A shell that runs as a container of its own: a command in, its output back. */
class ContainerShell implements Disposable {
  readonly #child: Bun.Subprocess<"pipe", "pipe", "inherit">;
  readonly #output: AsyncIterator<Uint8Array>;

  constructor(hearth: Hearth, bundle: string, id: string) {
    this.#child = Bun.spawn([hearth.runtimePath, "run", "--bundle", bundle, id], {
      argv0: "hearth-runtime",
      env: { PATH, ...hearth.env },
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#output = this.#child.stdout[Symbol.asyncIterator]();
  }

  async run(command: string): Promise<string> {
    void this.#child.stdin.write(`${command}; echo "status=$?"\n`);
    await this.#child.stdin.flush();
    const decoder = new TextDecoder();
    for (let text = ""; ; ) {
      const { value, done } = await this.#output.next();
      if (done === true) throw new Error(`the container ended during ${command}: ${text}`);
      text += decoder.decode(value, { stream: true });
      const match = /^([\s\S]*?)status=(\d+)\n$/.exec(text);
      if (match === null) continue;
      if (match[2] !== "0") throw new Error(`in the container: ${command}: ${text}`);
      return (match[1] ?? "").trim();
    }
  }

  async end(): Promise<void> {
    await this.#child.stdin.end();
    await this.#child.exited;
  }

  [Symbol.dispose](): void {
    this.#child.kill();
  }
}

/** From the first byte to the last, read by a program on the host. */
async function throughputOfStdout(hearth: Hearth): Promise<number> {
  const args = ["dd", "if=/dev/zero", "bs=1M", `count=${STDOUT_MIB}`];
  const bundle = await hearth.bundle({ args });
  return await rounds(async () => {
    const quiet = openSync("/dev/null", "w");
    const child = Bun.spawn([hearth.runtimePath, "run", "--bundle", bundle, `bench-stdout-${process.pid}-${++wires}`], {
      argv0: "hearth-runtime",
      env: { PATH, ...hearth.env },
      stdio: ["ignore", "pipe", quiet],
    });
    closeSync(quiet);
    let bytes = 0;
    let startedAt = 0;
    for await (const chunk of child.stdout) {
      if (bytes === 0) startedAt = performance.now();
      bytes += chunk.length;
    }
    const seconds = (performance.now() - startedAt) / 1000;
    if ((await child.exited) !== 0 || bytes !== STDOUT_MIB << 20) throw new Error(`${bytes} bytes of output`);
    return STDOUT_MIB / seconds;
  });
}
