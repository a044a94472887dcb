/** A UDP socket over IPv4 that is connected to one address, born in the calling thread's network namespace. */
import { HearthError } from "../errors.ts";
import { asFd, type Fd, OwnedFd } from "./fd.ts";
import { FdReader } from "./fd-reader.ts";
import { check, lazyLibc, struct } from "./libc.ts";

const AF_INET = 2;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;
const SOCKADDR_IN_BYTES = 16;
/** The largest datagram of UDP. */
const DATAGRAM_BYTES_MAX = 65_535;

const libc = lazyLibc({
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  connect: { args: ["i32", "ptr", "u32"], returns: "i32" },
  send: { args: ["i32", "ptr", "u64", "i32"], returns: "i64" },
});

/** "127.0.0.11" as four bytes. Fails with invalid-argument for anything else. */
export function parseIpv4(text: string): readonly [number, number, number, number] {
  const parts = text.split(".").map((part) => (/^\d{1,3}$/.test(part) ? Number(part) : 256));
  const [a, b, c, d, ...more] = parts;
  if (
    a === undefined ||
    b === undefined ||
    c === undefined ||
    d === undefined ||
    more.length > 0 ||
    Math.max(...parts) > 255
  )
    throw new HearthError("invalid-argument", `read IPv4 address ${JSON.stringify(text)}`);
  return [a, b, c, d];
}

export class UdpSocket implements Disposable {
  readonly #fd: Fd;
  readonly #reader: FdReader;

  constructor(address: string, port: number) {
    const kind = SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
    const owned = new OwnedFd(asFd(check(libc().socket(AF_INET, kind, 0), "open UDP socket")));
    try {
      const { bytes, view } = struct(SOCKADDR_IN_BYTES);
      view.setUint16(0, AF_INET, true);
      view.setUint16(2, port, false);
      bytes.set(parseIpv4(address), 4);
      check(libc().connect(owned.fd, bytes, bytes.length), `connect UDP socket to ${address}:${port}`);
      this.#fd = owned.fd;
      this.#reader = new FdReader(owned);
    } catch (thrown) {
      owned.close();
      throw thrown;
    }
  }

  send(datagram: Uint8Array): void {
    check(Number(libc().send(this.#fd, datagram, BigInt(datagram.length), 0)), "send UDP datagram");
  }

  /** The next datagram. Fails when the other side refuses what was sent. */
  async receive(signal?: AbortSignal): Promise<Uint8Array> {
    return (await this.#reader.read(DATAGRAM_BYTES_MAX, signal)) ?? new Uint8Array(0);
  }

  [Symbol.dispose](): void {
    this.#reader.close();
  }
}
