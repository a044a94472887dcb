/**
 * The guest's side of a virtio-serial port: each time the host's side is opened, a byte stream.
 *
 * The driver reports "the host is not connected" as a hang-up and as reads of 0 bytes, for as long as it lasts, and
 * takes it back when the host connects; nothing separates the bytes of one connection from those of the next.
 * Source: drivers/char/virtio_console.c of Linux 6.1; measured, see test/vm/serial-port.test.ts.
 */
import { HearthError, SystemError } from "../errors.ts";
import { FD_CALLS_PER_TURN_MAX, FD_READ_BYTES_DEFAULT } from "../limits.ts";
import type { ByteStream } from "./byte-stream.ts";
import { type Fd, O_NOCTTY, O_NONBLOCK, O_RDWR, type OwnedFd, openFd } from "./fd.ts";
import { lastErrno, lazyLibc } from "./libc.ts";
import { type PolledFd, pollFdEdges } from "./readiness.ts";

const libc = lazyLibc({
  read: { args: ["i32", "ptr", "u64"], returns: "i64" },
  write: { args: ["i32", "ptr", "u64"], returns: "i64" },
});

/** An open port. It can be opened once at a time: a second open is EBUSY. */
export class SerialPort implements Disposable {
  readonly #owned: OwnedFd;
  readonly #fd: Fd;
  readonly #polled: PolledFd;
  #stream: PortStream | undefined;
  /** Bytes that came after a hang-up that is over already: the next connection's. */
  #early: Uint8Array[] = [];
  /** As of the last event: asking the driver instead would be ahead of the events still under way. */
  #connected = false;
  #closed = false;

  private constructor(owned: OwnedFd) {
    this.#owned = owned;
    this.#fd = owned.fd;
    this.#polled = pollFdEdges(owned.fd, (hungUp) => {
      this.#connected = !hungUp;
      if (hungUp) this.#hungUp();
    });
  }

  /** Opens /dev/vport… */
  static open(path: string): SerialPort {
    const owned = openFd(path, O_RDWR | O_NONBLOCK | O_NOCTTY);
    try {
      return new SerialPort(owned);
    } catch (thrown) {
      owned.close();
      throw thrown;
    }
  }

  /**
   * Waits until the host is connected, and for the end of the stream given before; returns the stream of this
   * connection. It ends (read gives null, `closed` resolves) when the host disconnects. After a stream that we closed
   * ourselves the host is still connected and knows nothing of it: to start afresh, close the port and open it again.
   */
  async accept(signal?: AbortSignal): Promise<ByteStream> {
    await this.#stream?.closed;
    for (;;) {
      this.#throwIfClosed();
      signal?.throwIfAborted();
      if (this.#connected) break;
      await this.#polled.wait("write", signal);
    }
    const early = this.#early;
    this.#early = [];
    this.#stream = new PortStream(this.#fd, this.#polled, early);
    return this.#stream;
  }

  /** Idempotent. Ends the current stream; a pending accept rejects. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#stream?.close();
    this.#polled.cancel("write", new HearthError("cancelled", "accept on serial port: closed"));
    this.#polled.release();
    this.#owned.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * The host has disconnected, and may have connected again since. What can be read up to a read of 0 bytes is the old
   * connection's. Without one it is the new connection's: the old one had nothing left unread, as its reader waits.
   */
  #hungUp(): void {
    const drained: Uint8Array[] = [];
    for (let calls = 0; calls < DRAIN_CALLS_MAX; calls++) {
      const chunk = readSome(this.#fd);
      if (chunk === null) {
        this.#stream?.hungUp(drained);
        return;
      }
      if (chunk === "again") break;
      drained.push(chunk);
    }
    this.#stream?.hungUp([]);
    this.#early = drained;
  }

  #throwIfClosed(): void {
    if (this.#closed) throw new HearthError("cancelled", "accept on serial port: closed");
  }
}

/** More than the driver's queue holds (128 buffers of a page), so that a flood cannot hold us in the loop. */
const DRAIN_CALLS_MAX = 256;

function readSome(fd: Fd): Uint8Array | null | "again" {
  const buffer = new Uint8Array(FD_READ_BYTES_DEFAULT);
  for (;;) {
    const count = Number(libc().read(fd, buffer, BigInt(buffer.length)));
    if (count > 0) return buffer.slice(0, count);
    if (count === 0) return null;
    const errno = lastErrno();
    if (errno === "EAGAIN") return "again";
    if (errno !== "EINTR") throw new SystemError(errno, "read serial port");
  }
}

/** One connection of the host. Closing it does not close the port; the host sees no difference until it is. */
class PortStream implements ByteStream {
  readonly closed: Promise<void>;
  readonly #markClosed: () => void;
  readonly #fd: Fd;
  readonly #polled: PolledFd;
  #left: Uint8Array[];
  #state: "open" | "ended" | "closed" = "open";
  #last: Promise<void> = Promise.resolve();
  #callsThisTurn = 0;

  constructor(fd: Fd, polled: PolledFd, early: readonly Uint8Array[]) {
    this.#fd = fd;
    this.#polled = polled;
    this.#left = [...early];
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#markClosed = resolve;
  }

  async read(): Promise<Uint8Array | null> {
    for (;;) {
      if (this.#state === "closed") throw closedError("read");
      const left = this.#left.shift();
      if (left !== undefined) return left;
      if (this.#state === "ended") return null;
      if (this.#callsThisTurn++ >= FD_CALLS_PER_TURN_MAX) await this.#nextTurn();
      if (this.#state !== "open") continue;
      const chunk = readSome(this.#fd);
      if (chunk === null) this.hungUp([]);
      else if (chunk !== "again") return chunk;
      else await this.#wait("read");
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
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#left = [];
    this.#wakeAll();
    this.#markClosed();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /** For the port only: the connection is over; `drained` were its last bytes. */
  hungUp(drained: readonly Uint8Array[]): void {
    if (this.#state !== "open") return;
    this.#state = "ended";
    this.#left.push(...drained);
    this.#wakeAll();
    this.#markClosed();
  }

  #wakeAll(): void {
    this.#polled.cancel("read", HUNG_UP);
    this.#polled.cancel("write", HUNG_UP);
  }

  async #writeAll(data: Uint8Array): Promise<void> {
    for (let at = 0; at < data.length; ) {
      if (this.#state !== "open") throw closedError("write");
      if (this.#callsThisTurn++ >= FD_CALLS_PER_TURN_MAX) await this.#nextTurn();
      if (this.#state !== "open") continue;
      const rest = data.subarray(at);
      const count = Number(libc().write(this.#fd, rest, BigInt(rest.length)));
      if (count >= 0) {
        at += count;
        continue;
      }
      const errno = lastErrno();
      if (errno === "EAGAIN") await this.#wait("write");
      else if (errno !== "EINTR") throw new SystemError(errno, "write serial port");
    }
  }

  async #wait(interest: "read" | "write"): Promise<void> {
    this.#callsThisTurn = 0;
    try {
      await this.#polled.wait(interest);
    } catch (thrown) {
      if (thrown !== HUNG_UP) throw thrown;
    }
  }

  async #nextTurn(): Promise<void> {
    this.#callsThisTurn = 0;
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

/** Wakes who waits in a stream, which then looks at its state. */
const HUNG_UP = new HearthError("unavailable", "use serial port: host disconnected");

function closedError(verb: string): HearthError {
  return new HearthError("unavailable", `${verb} serial port: connection closed`);
}
