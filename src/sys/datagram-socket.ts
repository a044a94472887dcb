/** Sockets that carry datagrams, born in the calling thread's network namespace: netlink, whose other side is the kernel, and UDP. */
import { asFd, type Fd, OwnedFd } from "./fd.ts";
import { FdReader } from "./fd-reader.ts";
import { AF_INET, encodeIpv4 } from "./ipv4.ts";
import { check, lazyLibc, struct } from "./libc.ts";

const AF_NETLINK = 16;
const SOCK_DGRAM = 2;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;
const SOCKADDR_NL_BYTES = 12;
/** Source: linux/netlink.h. */
export const NETLINK_ROUTE = 0;
export const NETLINK_KOBJECT_UEVENT = 15;
/** More than UDP's largest datagram, and than a netlink dump, which fills 32 KiB at most. Source: NLMSG_GOODSIZE. */
const DATAGRAM_BYTES_MAX = 64 * 1024;

const libc = lazyLibc({
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
  connect: { args: ["i32", "ptr", "u32"], returns: "i32" },
  send: { args: ["i32", "ptr", "u64", "i32"], returns: "i64" },
});

/** One receive at a time. */
class DatagramSocket implements Disposable {
  readonly #what: string;
  readonly #fd: Fd;
  readonly #reader: FdReader;

  /** `attach` gives it its address. */
  constructor(what: string, family: number, type: number, protocol: number, attach: (fd: Fd) => void) {
    const socket = libc().socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
    const owned = new OwnedFd(asFd(check(socket, `open ${what}`)));
    try {
      attach(owned.fd);
      this.#reader = new FdReader(owned);
    } catch (thrown) {
      owned.close();
      throw thrown;
    }
    this.#what = what;
    this.#fd = owned.fd;
  }

  /** One datagram, which is taken at once. */
  send(datagram: Uint8Array): void {
    check(Number(libc().send(this.#fd, datagram, BigInt(datagram.length), 0)), `send to ${this.#what}`);
  }

  /** The next datagram. Fails with the error that the socket has: ENOBUFS when some were lost, ECONNREFUSED when one sent was refused. */
  async receive(signal?: AbortSignal): Promise<Uint8Array> {
    return (await this.#reader.read(DATAGRAM_BYTES_MAX, signal)) ?? new Uint8Array(0);
  }

  [Symbol.dispose](): void {
    this.#reader.close();
  }
}

export class NetlinkSocket extends DatagramSocket {
  /** `groups`: bit mask of the multicast groups to join. */
  constructor(protocol: number, groups = 0) {
    const { bytes, view } = struct(SOCKADDR_NL_BYTES);
    view.setUint16(0, AF_NETLINK, true);
    view.setUint32(8, groups, true);
    super("netlink socket", AF_NETLINK, SOCK_RAW, protocol, (fd) => {
      check(libc().bind(fd, bytes, bytes.length), "bind netlink socket");
    });
  }
}

/** Over IPv4, connected to one address. */
export class UdpSocket extends DatagramSocket {
  constructor(address: string, port: number) {
    const bytes = encodeIpv4(address, port);
    const what = `UDP socket to ${address}:${port}`;
    super(what, AF_INET, SOCK_DGRAM, 0, (fd) => {
      check(libc().connect(fd, bytes, bytes.length), `connect ${what}`);
    });
  }
}
