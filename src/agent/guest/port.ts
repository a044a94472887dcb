/**
 * The agent's virtio-serial port as a sequence of connections. The port itself has none, it is one byte channel: the
 * host side going away shows as a hang-up, which ends one connection; its coming back begins the next.
 */
import { join } from "node:path";
import { HearthError } from "../../errors.ts";
import { FD_CALLS_PER_TURN_MAX, FD_READ_BYTES_DEFAULT } from "../../limits.ts";
import type { Log } from "../../log.ts";
import { serveTtrpc } from "../../rpc/ttrpc/server.ts";
import type { ByteStream } from "../../sys/byte-stream.ts";
import { type PortDevice, VirtioPort } from "../../sys/virtio-port.ts";
import { list, readText, waitForDevice } from "./devices.ts";

type Services = Parameters<typeof serveTtrpc>[1];

const PORTS_DIR = "/sys/class/virtio-ports";

/** Node of the port with that name, waiting for it to appear. */
export function findPort(name: string, signal: AbortSignal): Promise<string> {
  return waitForDevice(`virtio port ${name}`, () => portNode(name), signal);
}

function portNode(name: string): string | undefined {
  // A console is a port too, and has no name.
  const found = list(PORTS_DIR).find((port) => readText(join(PORTS_DIR, port, "name"))?.trim() === name);
  return found === undefined ? undefined : join("/dev", found);
}

/**
 * Serves one host after the other until `signal` aborts. After each the port is closed and opened again: that drops
 * whatever is left in it, and tells the host side that the agent has noticed its going away.
 */
export async function servePort(path: string, services: Services, log: Log, signal: AbortSignal): Promise<void> {
  for (let connectionId = 1; ; connectionId++) {
    using port = new VirtioPort(path);
    // All is made before the host is there: a clone's agent has less to do before its first answer.
    const hostThere = port.waitForHost(signal);
    const stream = new PortConnection(port, signal, hostThere);
    serveTtrpc(stream, services, { log, connectionId });
    await hostThere;
    log.debug("host connected", { connectionId });
    await stream.closed;
    signal.throwIfAborted();
    log.debug("host disconnected", { connectionId, hungUp: stream.hungUp });
  }
}

/** The bytes from one appearance of the host to the next hang-up. Closing it leaves the port open. */
export class PortConnection implements ByteStream {
  readonly closed: Promise<void>;
  readonly #port: PortDevice;
  readonly #hostThere: Promise<void>;
  readonly #stop = new AbortController();
  readonly #markClosed: () => void;
  readonly #buffer = new Uint8Array(FD_READ_BYTES_DEFAULT);
  #last: Promise<void> = Promise.resolve();
  #hungUp = false;

  /** `signal` closes it. Nothing is read before `hostThere`, whose rejection is that of the first read. */
  constructor(port: PortDevice, signal: AbortSignal, hostThere: Promise<void> = Promise.resolve()) {
    this.#port = port;
    this.#hostThere = hostThere;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#markClosed = resolve;
    const onAbort = (): void => this.close();
    signal.addEventListener("abort", onAbort, { once: true });
    void promise.then(() => signal.removeEventListener("abort", onAbort));
  }

  /** The host went away. */
  get hungUp(): boolean {
    return this.#hungUp;
  }

  async read(): Promise<Uint8Array | null> {
    await this.#hostThere;
    for (;;) {
      this.#stop.signal.throwIfAborted();
      const filled = this.#readAvailable();
      if (filled > 0) return this.#buffer.slice(0, filled);
      if (this.#hungUp) return null;
      await this.#port.wait("read", this.#stop.signal);
    }
  }

  write(data: Uint8Array): Promise<void> {
    const done = this.#last.then(() => this.#writeAll(data));
    this.#last = done;
    done.catch(() => undefined);
    return done;
  }

  /** A port has no half-close. */
  endWrite(): void {}

  close(): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort(new HearthError("unavailable", "use agent port: connection closed"));
    this.#markClosed();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /** One read(2) gives at most a page: several of them make one chunk. */
  #readAvailable(): number {
    let filled = 0;
    while (filled < this.#buffer.length) {
      const count = this.#port.read(filled === 0 ? this.#buffer : this.#buffer.subarray(filled));
      if (count === "again") break;
      if (count === "hang-up") {
        this.#hungUp = true;
        break;
      }
      filled += count;
    }
    return filled;
  }

  async #writeAll(data: Uint8Array): Promise<void> {
    let calls = 0;
    for (let at = 0; at < data.length; ) {
      this.#stop.signal.throwIfAborted();
      const count = this.#port.write(at === 0 ? data : data.subarray(at));
      if (count === "again") {
        // While nobody is there the port is "ready" and takes nothing.
        if (!this.#port.isHostThere()) this.#hangUp();
        await this.#port.wait("write", this.#stop.signal);
        continue;
      }
      at += count;
      calls++;
      if (calls % FD_CALLS_PER_TURN_MAX === 0) await new Promise<void>((resolve) => setImmediate(resolve));
    }
  }

  #hangUp(): never {
    this.#hungUp = true;
    this.close();
    throw new HearthError("unavailable", "write agent port: the host closed it");
  }
}
