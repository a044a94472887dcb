/**
 * Sockets between a host and its VMs (AF_VSOCK), which have context ids (CIDs) for addresses.
 * Source: vsock(7), linux/vm_sockets.h, linux/vhost.h.
 */
import { HearthError, SystemError } from "../errors.ts";
import { VSOCK_ATTEMPTS_MAX, VSOCK_BACKLOG } from "../limits.ts";
import type { DeadlineOptions } from "../util/wait.ts";
import type { ByteStream } from "./byte-stream.ts";
import { connectError, connected } from "./connecting.ts";
import { asFd, type Fd, O_RDWR, OwnedFd, openFd } from "./fd.ts";
import { check, lastErrno, lazyLibc, struct } from "./libc.ts";
import { pollFd } from "./readiness.ts";
import { adoptSocket } from "./socket-stream.ts";

const AF_VSOCK = 40;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;
const SOCKADDR_VM_BYTES = 16;
const CID_ANY = 0xffff_ffff;
/** The host, as its VMs see it. */
export const CID_HOST = 2;
/** 0 to 2 have meanings of their own, and 2^32-1 is CID_ANY. */
export const CID_MIN = 3;
export const CID_MAX = 0xffff_fffe;
/** Only root may bind ports below, which tells it from the other users of a host. Source: net/vmw_vsock/af_vsock.c, LAST_RESERVED_PORT. */
export const RESERVED_PORT_MAX = 1023;
/** Option of level AF_VSOCK; struct timeval. The kernel's default is 2 s. */
const SO_VM_SOCKETS_CONNECT_TIMEOUT = 6;
const VHOST_VSOCK_SET_GUEST_CID = 0x4008_af60n;

/** Where the kernel of a host gives VMs such sockets. */
export const VHOST_VSOCK = "/dev/vhost-vsock";

const libc = lazyLibc({
  ioctl: { args: ["i32", "u64", "ptr"], returns: "i32" },
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
  listen: { args: ["i32", "i32"], returns: "i32" },
  connect: { args: ["i32", "ptr", "u32"], returns: "i32" },
  accept4: { args: ["i32", "ptr", "ptr", "i32"], returns: "i32" },
  setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
});

export interface VsockAddress {
  readonly cid: number;
  readonly port: number;
}

/** struct sockaddr_vm: u16 family, u16 zero, u32 port, u32 CID, zeros. */
export function encodeAddress({ cid, port }: VsockAddress): Uint8Array {
  const { bytes, view } = struct(SOCKADDR_VM_BYTES);
  view.setUint16(0, AF_VSOCK, true);
  view.setUint32(4, port, true);
  view.setUint32(8, cid, true);
  return bytes;
}

export function decodeAddress(bytes: Uint8Array): VsockAddress {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return { port: view.getUint32(4, true), cid: view.getUint32(8, true) };
}

/** A CID that no other VM of the host has or gets while the descriptor, or a copy of it, is open. */
export interface ReservedCid extends Disposable {
  readonly cid: number;
  /** Open on /dev/vhost-vsock with the CID set: QEMU's `vhostfd`. */
  readonly fd: Fd;
}

/** A random CID, CID_MIN to CID_MAX. */
export function randomCid(): number {
  for (;;) {
    const [cid = 0] = crypto.getRandomValues(new Uint32Array(1));
    if (cid >= CID_MIN && cid <= CID_MAX) return cid;
  }
}

/**
 * Takes a CID for a new VM; the kernel is who knows those in use, so two callers never get the same one. Errors:
 * SystemError when the device cannot be opened, "resource-exhausted" when every CID tried is taken.
 */
export function reserveCid(choose: () => number = randomCid): ReservedCid {
  const owned = openFd(VHOST_VSOCK, O_RDWR);
  try {
    for (let attempt = 0; attempt < VSOCK_ATTEMPTS_MAX; attempt++) {
      const cid = choose();
      const { bytes, view } = struct(8);
      view.setBigUint64(0, BigInt(cid), true);
      if (libc().ioctl(owned.fd, VHOST_VSOCK_SET_GUEST_CID, bytes) >= 0) {
        return { cid, fd: owned.fd, [Symbol.dispose]: () => owned.close() };
      }
      const errno = lastErrno();
      if (errno !== "EADDRINUSE") throw new SystemError(errno, `reserve CID ${cid}`);
    }
    throw new HearthError("resource-exhausted", `reserve CID: ${VSOCK_ATTEMPTS_MAX} of them are taken`);
  } catch (thrown) {
    owned.close();
    throw thrown;
  }
}

function newSocket(): OwnedFd {
  const fd = check(libc().socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "make vsock socket");
  return new OwnedFd(asFd(fd));
}

/**
 * A stream to a port, from a reserved port of this end, by which the peer knows that root connected. "unavailable" when
 * nobody listens there, DeadlineError after `timeoutMs`. At most RESERVED_PORT_MAX such connections are open on a host.
 */
export async function connectVsock(to: VsockAddress, options: DeadlineOptions = {}): Promise<ByteStream> {
  const name = `vsock ${to.cid}:${to.port}`;
  options.signal?.throwIfAborted();
  const socket = newSocket();
  try {
    bindReserved(socket.fd);
    if (options.timeoutMs !== undefined) setConnectTimeout(socket.fd, options.timeoutMs);
    const address = encodeAddress(to);
    if (libc().connect(socket.fd, address, address.length) < 0) {
      const errno = lastErrno();
      if (errno !== "EINPROGRESS") throw connectError(errno, name);
      await connected(socket.fd, name, options);
    }
    return await adoptSocket(socket, name);
  } catch (thrown) {
    socket.close();
    throw thrown;
  }
}

/** A second longer than ours, which names what was waited for. */
function setConnectTimeout(fd: Fd, timeoutMs: number): void {
  const { bytes, view } = struct(16);
  view.setBigInt64(0, BigInt(Math.ceil(timeoutMs / 1000) + 1), true);
  check(libc().setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, bytes, bytes.length), "set connect timeout");
}

function bindReserved(fd: Fd): void {
  for (let attempt = 0; attempt < VSOCK_ATTEMPTS_MAX; attempt++) {
    const port = 1 + Math.floor(Math.random() * RESERVED_PORT_MAX);
    const address = encodeAddress({ cid: CID_ANY, port });
    if (libc().bind(fd, address, address.length) >= 0) return;
    const errno = lastErrno();
    if (errno !== "EADDRINUSE") throw new SystemError(errno, `bind reserved vsock port ${port}`);
  }
  throw new HearthError("resource-exhausted", "bind reserved vsock port: those that were tried are taken");
}

/** Accepts connections; who may connect is decided by the caller. */
export class VsockListener implements Disposable {
  readonly #socket: OwnedFd;
  readonly #port: number;

  private constructor(socket: OwnedFd, port: number) {
    this.#socket = socket;
    this.#port = port;
  }

  /** On every CID of this machine. */
  static listen(port: number): VsockListener {
    const socket = newSocket();
    try {
      const address = encodeAddress({ cid: CID_ANY, port });
      check(libc().bind(socket.fd, address, address.length), `listen on vsock port ${port}`);
      check(libc().listen(socket.fd, VSOCK_BACKLOG), `listen on vsock port ${port}`);
      return new VsockListener(socket, port);
    } catch (thrown) {
      socket.close();
      throw thrown;
    }
  }

  /** The next connection, which the caller owns, and who it is from: the CID is the kernel's word, not the peer's. */
  async accept(signal: AbortSignal): Promise<{ readonly socket: OwnedFd; readonly peer: VsockAddress }> {
    const polled = pollFd(this.#socket.fd);
    try {
      for (;;) {
        signal.throwIfAborted();
        const address = new Uint8Array(SOCKADDR_VM_BYTES);
        const { bytes: length, view } = struct(4);
        view.setUint32(0, address.length, true);
        const fd = libc().accept4(this.#socket.fd, address, length, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) return { socket: new OwnedFd(asFd(fd)), peer: decodeAddress(address) };
        const errno = lastErrno();
        if (errno === "EAGAIN") await polled.wait("read", signal);
        // Others are of a connection that has gone before it was accepted.
        else if (errno !== "EINTR" && errno !== "ECONNABORTED" && errno !== "ECONNRESET") {
          throw new SystemError(errno, `accept on vsock port ${this.#port}`);
        }
      }
    } finally {
      polled.release();
    }
  }

  [Symbol.dispose](): void {
    this.#socket.close();
  }
}
