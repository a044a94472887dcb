/** TCP on localhost: connecting to a port of it, and taking every connection to it, or none at all, within a network namespace. */
import { toHearthError } from "../errors.ts";
import { LOCALHOST_BACKLOG } from "../limits.ts";
import type { ByteStream } from "./byte-stream.ts";
import { asFd, O_RDONLY, OwnedFd, openFd } from "./fd.ts";
import { addressOf, check, lastErrno, lazyLibc, struct } from "./libc.ts";
import { inNetns } from "./namespace.ts";
import { steerArrivals, steerLocalhost } from "./sk-lookup.ts";
import { acceptHandlers, SocketStream, STREAM_HANDLERS } from "./socket-stream.ts";

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;
/** Source: linux/in.h, linux/in6.h. */
const SOL_IP = 0;
const IP_FREEBIND = 15;
const SOL_IPV6 = 41;
const IPV6_FREEBIND = 78;
/** Source: asm-generic/socket.h, linux/filter.h: struct sock_filter, one that accepts no byte of a packet. */
const SOL_SOCKET = 1;
const SO_ATTACH_FILTER = 26;
const BPF_RET = 0x06;
/** 127.0.0.1 as an IPv6 socket has it, which takes both families there and only there. */
const MAPPED_LOCALHOST = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1);

const libc = lazyLibc({
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
  bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
  listen: { args: ["i32", "i32"], returns: "i32" },
});

export type LocalhostAddress = "127.0.0.1" | "::1";

/** A stream to a port of this network namespace. SystemError ECONNREFUSED when nobody listens there. */
export async function connectLocalhost(address: LocalhostAddress, port: number): Promise<ByteStream> {
  const name = `${address} port ${port}`;
  const stream = new SocketStream(name);
  try {
    await Bun.connect({ hostname: address, port, data: stream, allowHalfOpen: true, socket: STREAM_HANDLERS });
    return stream;
  } catch (thrown) {
    stream.close();
    throw toHearthError(thrown, `connect ${name}`);
  }
}

/** `onConnection` owns the stream; `address` and `port` are what was connected to. */
export type OnLocalhostConnection = (stream: ByteStream, address: LocalhostAddress, port: number) => void;

/**
 * Takes every TCP connection to 127.0.0.1 and ::1 within the network namespace of `netns`, whatever its port and whoever
 * else listens there, until it is disposed of; its connections go on. Loopback may be down and come up later. Fails with
 * a SystemError where the kernel does not allow it.
 */
export function takeLocalhost(netns: string, onConnection: OnLocalhostConnection): Disposable {
  using stack = new DisposableStack();
  using namespace = openFd(netns, O_RDONLY);
  const socket = stack.use(inNetns(netns, listeningSocket));
  stack.use(steerLocalhost(socket.fd, namespace.fd));
  const server = Bun.listen<SocketStream>({
    fd: socket.release(),
    allowHalfOpen: true,
    socket: acceptHandlers(`connection to localhost of ${netns}`, (stream, { localAddress, localPort }) => {
      onConnection(stream, localAddress === "::1" ? "::1" : "127.0.0.1", localPort);
    }),
  });
  stack.defer(() => server.stop(false));
  return stack.move();
}

/**
 * From now until it is disposed of, TCP packets that come into the network namespace of `netns` from outside and belong to
 * none of its connections are dropped: they are neither taken nor refused, so that who sent them tries again. Those to an
 * address of its own from within are as before. Fails with a SystemError where the kernel does not allow it: Linux 5.17.
 */
export function ignoreArrivals(netns: string): Disposable {
  using stack = new DisposableStack();
  using namespace = openFd(netns, O_RDONLY);
  const socket = stack.use(inNetns(netns, listeningSocket));
  const { bytes: code, view: codeView } = struct(8);
  codeView.setUint16(0, BPF_RET, true);
  const { bytes: program, view } = struct(16);
  view.setUint16(0, 1, true);
  view.setBigUint64(8, addressOf(code), true);
  check(libc().setsockopt(socket.fd, SOL_SOCKET, SO_ATTACH_FILTER, program, program.length), "ignore connections");
  stack.use(steerArrivals(socket.fd, namespace.fd));
  return stack.move();
}

/** Where the kernel has no IPv6, for IPv4 alone. */
function listeningSocket(): OwnedFd {
  const kind = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
  let socket = libc().socket(AF_INET6, kind, 0);
  const isDual = socket >= 0 || lastErrno() !== "EAFNOSUPPORT";
  if (!isDual) socket = libc().socket(AF_INET, kind, 0);
  const owned = new OwnedFd(asFd(check(socket, "listen on localhost")));
  try {
    const one = Int32Array.of(1);
    const [level, option] = isDual ? [SOL_IPV6, IPV6_FREEBIND] : [SOL_IP, IP_FREEBIND];
    check(libc().setsockopt(owned.fd, level, option, one, one.byteLength), "listen on localhost");
    const address = isDual ? ip6Address() : ip4Address();
    check(libc().bind(owned.fd, address, address.length), "listen on localhost");
    check(libc().listen(owned.fd, LOCALHOST_BACKLOG), "listen on localhost");
    return owned;
  } catch (thrown) {
    owned.close();
    throw thrown;
  }
}

/** struct sockaddr_in6, any port. */
function ip6Address(): Uint8Array {
  const { bytes, view } = struct(28);
  view.setUint16(0, AF_INET6, true);
  bytes.set(MAPPED_LOCALHOST, 8);
  return bytes;
}

/** struct sockaddr_in, any port. */
function ip4Address(): Uint8Array {
  const { bytes, view } = struct(16);
  view.setUint16(0, AF_INET, true);
  bytes.set(MAPPED_LOCALHOST.subarray(12), 4);
  return bytes;
}
