/** Netlink sockets: datagrams to and from the kernel; what is in them is their users' matter. */
import { asFd, type Fd, OwnedFd } from "./fd.ts";
import { FdReader } from "./fd-reader.ts";
import { check, lazyLibc, struct } from "./libc.ts";

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;
/** Source: linux/netlink.h. */
export const NETLINK_ROUTE = 0;
export const NETLINK_KOBJECT_UEVENT = 15;
/** The largest datagram the kernel sends: a dump fills 32 KiB at most. Source: linux/netlink.h, NLMSG_GOODSIZE. */
const DATAGRAM_BYTES_MAX = 64 * 1024;

const libc = lazyLibc({
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
  send: { args: ["i32", "ptr", "u64", "i32"], returns: "i64" },
});

/** A bound netlink socket of the calling thread's network namespace. One receive at a time. */
export class NetlinkSocket implements Disposable {
  readonly #fd: Fd;
  readonly #reader: FdReader;

  /** `groups`: bit mask of the multicast groups to join. */
  constructor(protocol: number, groups = 0) {
    const socket = check(
      libc().socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol),
      "open netlink socket",
    );
    const owned = new OwnedFd(asFd(socket));
    try {
      const { bytes, view } = struct(12);
      view.setUint16(0, AF_NETLINK, true);
      view.setUint32(8, groups, true);
      check(libc().bind(owned.fd, bytes, bytes.length), "bind netlink socket");
      this.#fd = owned.fd;
      this.#reader = new FdReader(owned);
    } catch (thrown) {
      owned.close();
      throw thrown;
    }
  }

  /** One datagram to the kernel, which takes it at once. */
  send(datagram: Uint8Array): void {
    check(Number(libc().send(this.#fd, datagram, BigInt(datagram.length), 0)), "send netlink message");
  }

  /** The next datagram. A SystemError ENOBUFS says that some were lost. */
  async receive(signal?: AbortSignal): Promise<Uint8Array> {
    return (await this.#reader.read(DATAGRAM_BYTES_MAX, signal)) ?? new Uint8Array(0);
  }

  [Symbol.dispose](): void {
    this.#reader.close();
  }
}
