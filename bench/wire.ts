/** A wire to a guest or a container, and how fast bytes of TCP go over it, measured at the host's end. */
import { inNetns } from "../src/sys/namespace.ts";
import { runOrThrow } from "../src/sys/run-process.ts";

const NETWORK_MIB = 128;
const BYTES = NETWORK_MIB << 20;
const CHUNK = new Uint8Array(256 * 1024);
/** Where the host listens, and where the guest does. */
const HOST_PORT = 5002;
const GUEST_PORT = 5003;
const CONNECT_INTERVAL_MS = 20;
const CONNECT_TIMEOUT_MS = 30_000;
const BUSYBOX = "/bin/busybox";

export interface Wire {
  readonly name: string;
  /** Namespace of the host's end. */
  readonly path: string;
  readonly host: string;
  readonly guest: string;
}

let wires = 0;

/** A namespace for the host's end; with "veth" another, `<name>-c`, for the container's. Both go with `stack`. */
export async function makeWire(stack: AsyncDisposableStack, kind: "tap" | "veth"): Promise<Wire> {
  const name = `hearth-bench-${process.pid}-${++wires}`;
  const names = kind === "veth" ? [name, `${name}-c`] : [name];
  for (const netns of names) {
    await runOrThrow(["ip", "netns", "add", netns]);
    stack.defer(async () => void (await runOrThrow(["ip", "netns", "del", netns])));
  }
  const wire = { name, path: `/run/netns/${name}`, host: "10.97.0.1", guest: "10.97.0.2" };
  if (kind === "tap") return wire;
  const inside = `${name}-c`;
  await runOrThrow(["ip", "-n", name, "link", "add", "host0", "type", "veth", "peer", "name", "eth0", "netns", inside]);
  for (const [netns, device, address] of [
    [name, "host0", wire.host],
    [inside, "eth0", wire.guest],
  ] as const) {
    await runOrThrow(["ip", "-n", netns, "addr", "add", `${address}/24`, "dev", device]);
    await runOrThrow(["ip", "-n", netns, "link", "set", device, "up"]);
  }
  return wire;
}

type Run = (command: string) => Promise<string>;

/** MiB a second from guest to host, from the first byte that comes to the last. */
export async function speedToHost(wire: Wire, run: Run): Promise<number> {
  const listener = inNetns(wire.path, () => listenOnce(wire.host));
  try {
    // The program writes to the connection itself: nc would copy in little pieces.
    const send = `${BUSYBOX} dd if=/dev/zero bs=64k count=${NETWORK_MIB * 16} 2>/dev/null`;
    const connect = `${BUSYBOX} nc ${wire.host} ${HOST_PORT} -e ${BUSYBOX} sh -c '${send}'`;
    const [speed] = await Promise.all([listener.speed, run(connect)]);
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
    port: HOST_PORT,
    socket: {
      data: (_socket, chunk) => {
        if (bytes === 0) startedAt = performance.now();
        bytes += chunk.length;
      },
      close: () => {
        if (bytes === BYTES) resolve(perSecond(startedAt));
        else reject(new Error(`${bytes} bytes arrived of ${BYTES}`));
      },
    },
  });
  return { speed, stop: () => void server.stop(true) };
}

/** MiB a second from host to guest, from the first byte that is sent until the guest says that it has read the last. */
export async function speedToGuest(wire: Wire, run: Run): Promise<number> {
  const receive = `${BUSYBOX} dd bs=64k of=/dev/null 2>/dev/null; echo done`;
  const listening = run(`${BUSYBOX} nc -l -p ${GUEST_PORT} -e ${BUSYBOX} sh -c '${receive}'`);
  const [speed] = await Promise.all([sendWhenListening(wire), listening]);
  return speed;
}

async function sendWhenListening(wire: Wire): Promise<number> {
  const deadline = performance.now() + CONNECT_TIMEOUT_MS;
  for (;;) {
    try {
      return await send(wire);
    } catch (thrown) {
      if (performance.now() > deadline) throw thrown;
      await Bun.sleep(CONNECT_INTERVAL_MS);
    }
  }
}

async function send(wire: Wire): Promise<number> {
  const { promise: speed, resolve, reject } = Promise.withResolvers<number>();
  let left = BYTES;
  let startedAt = 0;
  const fill = (socket: Bun.Socket): void => {
    while (left > 0) {
      const written = socket.write(CHUNK.subarray(0, Math.min(left, CHUNK.length)));
      if (written <= 0) return;
      left -= written;
    }
    socket.shutdown();
  };
  await inNetns(wire.path, () =>
    Bun.connect({
      hostname: wire.guest,
      port: GUEST_PORT,
      allowHalfOpen: true,
      socket: {
        open: (socket) => {
          startedAt = performance.now();
          fill(socket);
        },
        drain: fill,
        data: (socket) => {
          if (left === 0) resolve(perSecond(startedAt));
          socket.end();
        },
        close: () => reject(new Error("the guest has not said that it read everything")),
      },
    }),
  );
  return await speed;
}

const perSecond = (startedAt: number): number => NETWORK_MIB / ((performance.now() - startedAt) / 1000);
