/** Receives datagrams as systemd does. */
import { asFd, OwnedFd } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { check, lazyLibc, struct } from "../../src/sys/libc.ts";

const libc = lazyLibc({
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
});

/** A bound datagram socket, as systemd's NOTIFY_SOCKET; each read is one datagram. A leading "@" is the abstract name space. */
export function datagramReceiver(name: string): FdReader {
  const fd = new OwnedFd(asFd(check(libc().socket(1, 2, 0), "make socket")));
  const { bytes, view } = struct(110);
  view.setUint16(0, 1, true);
  bytes.set(new TextEncoder().encode(name), 2);
  if (name.startsWith("@")) bytes[2] = 0;
  check(libc().bind(fd.fd, bytes, 2 + name.length + (name.startsWith("@") ? 0 : 1)), "bind socket");
  return new FdReader(fd);
}

/** Takes datagrams as they come, since few fit the socket's queue, and keeps them for those who wait. */
export class DatagramLog implements Disposable {
  readonly #reader: FdReader;
  readonly #unread: string[] = [];
  #arrived = Promise.withResolvers<void>();

  constructor(name: string) {
    this.#reader = datagramReceiver(name);
    void this.#follow().catch(() => {});
  }

  /** Resolves at the next datagram that has this in it; those before it are dropped. */
  async next(wanted: string): Promise<void> {
    for (;;) {
      for (let text = this.#unread.shift(); text !== undefined; text = this.#unread.shift()) {
        if (text.includes(wanted)) return;
      }
      await this.#arrived.promise;
    }
  }

  [Symbol.dispose](): void {
    this.#reader.close();
  }

  async #follow(): Promise<void> {
    for (let datagram = await this.#reader.read(); datagram !== null; datagram = await this.#reader.read()) {
      this.#unread.push(new TextDecoder().decode(datagram));
      this.#arrived.resolve();
      this.#arrived = Promise.withResolvers<void>();
    }
  }
}
