/** Passing open descriptors over unix sockets (SCM_RIGHTS). Source: unix(7), cmsg(3). */
import { unlinkSync } from "node:fs";
import { DeadlineError, HearthError, isNotFound, SystemError, toHearthError } from "../errors.ts";
import { FDS_PER_MESSAGE_MAX } from "../limits.ts";
import { type DeadlineOptions, sleep, withDeadline } from "../util/wait.ts";
import { asFd, type Fd, OwnedFd } from "./fd.ts";
import { addressOf, check, cString, lastErrno, lazyLibc, struct } from "./libc.ts";
import { type PolledFd, pollFd } from "./readiness.ts";
import { assertSocketPath } from "./unix-socket.ts";

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 0x8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
/** struct msghdr, struct iovec and the header of a control message on x86_64. */
const MSGHDR_BYTES = 56;
const IOVEC_BYTES = 16;
const CMSGHDR_BYTES = 16;

const libc = lazyLibc({
  sendmsg: { args: ["i32", "ptr", "i32"], returns: "i64" },
  recvmsg: { args: ["i32", "ptr", "i32"], returns: "i64" },
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
  listen: { args: ["i32", "i32"], returns: "i32" },
  connect: { args: ["i32", "ptr", "u32"], returns: "i32" },
  accept4: { args: ["i32", "ptr", "ptr", "i32"], returns: "i32" },
});

/** Keeps alive what the header points to while the kernel reads it. */
interface Message {
  readonly header: Uint8Array;
  readonly headerView: DataView;
  readonly iovec: Uint8Array;
  readonly data: Uint8Array;
  readonly control: Uint8Array;
}

function message(data: Uint8Array, control: Uint8Array): Message {
  const { bytes: iovec, view: iovecView } = struct(IOVEC_BYTES);
  iovecView.setBigUint64(0, addressOf(data), true);
  iovecView.setBigUint64(8, BigInt(data.length), true);
  const { bytes: header, view: headerView } = struct(MSGHDR_BYTES);
  headerView.setBigUint64(16, addressOf(iovec), true);
  headerView.setBigUint64(24, 1n, true);
  if (control.length > 0) headerView.setBigUint64(32, addressOf(control), true);
  headerView.setBigUint64(40, BigInt(control.length), true);
  return { header, headerView, iovec, data, control };
}

function alignedTo8(bytes: number): number {
  return (bytes + 7) & ~7;
}

/**
 * Sends `data` (at least one byte) with descriptors attached to its first byte; they stay open here too. Returns how
 * many bytes were taken: the descriptors went with them. Undefined when the socket is full now.
 */
export function trySendFds(socket: Fd, data: Uint8Array, fds: readonly Fd[]): number | undefined {
  if (data.length === 0) throw new HearthError("internal", "send descriptors: no data to carry them");
  if (fds.length === 0 || fds.length > FDS_PER_MESSAGE_MAX) {
    throw new HearthError("internal", `send descriptors: ${fds.length} of at most ${FDS_PER_MESSAGE_MAX}`);
  }
  const { bytes: control, view } = struct(CMSGHDR_BYTES + alignedTo8(fds.length * 4));
  view.setBigUint64(0, BigInt(CMSGHDR_BYTES + fds.length * 4), true);
  view.setInt32(8, SOL_SOCKET, true);
  view.setInt32(12, SCM_RIGHTS, true);
  fds.forEach((fd, index) => {
    view.setInt32(CMSGHDR_BYTES + index * 4, fd, true);
  });
  const sending = message(data, control);
  for (;;) {
    const sent = Number(libc().sendmsg(socket, sending.header, MSG_DONTWAIT | MSG_NOSIGNAL));
    if (sent >= 0) return sent;
    const errno = lastErrno();
    if (errno === "EAGAIN") return undefined;
    if (errno !== "EINTR") throw new SystemError(errno, "send descriptors");
  }
}

/** Sends all of `data`, the descriptors with its first byte, waiting while the socket is full. The socket stays the caller's. */
export async function sendFds(socket: Fd, data: Uint8Array, fds: readonly Fd[], signal?: AbortSignal): Promise<void> {
  const polled = pollFd(socket);
  try {
    let sent: number | undefined;
    for (sent = trySendFds(socket, data, fds); sent === undefined; sent = trySendFds(socket, data, fds)) {
      await polled.wait("write", signal);
    }
    for (let at = sent; at < data.length; ) {
      const rest = message(data.subarray(at), new Uint8Array(0));
      const count = Number(libc().sendmsg(socket, rest.header, MSG_DONTWAIT | MSG_NOSIGNAL));
      if (count >= 0) {
        at += count;
        continue;
      }
      const errno = lastErrno();
      if (errno === "EAGAIN") await polled.wait("write", signal);
      else if (errno !== "EINTR") throw new SystemError(errno, "send descriptors");
    }
  } finally {
    polled.release();
  }
}

export interface ReceivedFds {
  /** Empty at the end of the stream. */
  readonly data: Uint8Array;
  /** The receiver owns them; O_CLOEXEC. */
  readonly fds: readonly OwnedFd[];
}

/** Receives at most `maxBytes` with at most `maxFds` descriptors; undefined when there is nothing now. More descriptors than that: all are closed and it is an error. */
export function tryReceiveFds(socket: Fd, maxBytes: number, maxFds: number): ReceivedFds | undefined {
  const receiving = message(new Uint8Array(maxBytes), new Uint8Array(CMSGHDR_BYTES + alignedTo8(maxFds * 4)));
  let count: number;
  for (;;) {
    count = Number(libc().recvmsg(socket, receiving.header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
    if (count >= 0) break;
    const errno = lastErrno();
    if (errno === "EAGAIN") return undefined;
    if (errno !== "EINTR") throw new SystemError(errno, "receive descriptors");
  }
  const controlBytes = Number(receiving.headerView.getBigUint64(40, true));
  const fds = parseRights(receiving.control.subarray(0, controlBytes));
  if ((receiving.headerView.getInt32(48, true) & MSG_CTRUNC) !== 0) {
    for (const fd of fds) fd.close();
    throw new HearthError("invalid-argument", `receive descriptors: more than ${maxFds} were sent`);
  }
  return { data: receiving.data.subarray(0, count), fds };
}

function parseRights(control: Uint8Array): OwnedFd[] {
  const view = new DataView(control.buffer, control.byteOffset, control.byteLength);
  const fds: OwnedFd[] = [];
  for (let at = 0; at + CMSGHDR_BYTES <= control.length; ) {
    const length = Number(view.getBigUint64(at, true));
    if (length < CMSGHDR_BYTES || at + length > control.length) break;
    if (view.getInt32(at + 8, true) === SOL_SOCKET && view.getInt32(at + 12, true) === SCM_RIGHTS) {
      for (let fd = at + CMSGHDR_BYTES; fd + 4 <= at + length; fd += 4) {
        fds.push(new OwnedFd(asFd(view.getInt32(fd, true))));
      }
    }
    at += alignedTo8(length);
  }
  return fds;
}

/** As tryReceiveFds, waiting until there is something. The socket stays the caller's. */
export async function receiveFds(
  socket: Fd,
  maxBytes: number,
  maxFds: number,
  signal?: AbortSignal,
): Promise<ReceivedFds> {
  const polled = pollFd(socket);
  try {
    for (;;) {
      const received = tryReceiveFds(socket, maxBytes, maxFds);
      if (received !== undefined) return received;
      await polled.wait("read", signal);
    }
  } finally {
    polled.release();
  }
}

function newSocket(): OwnedFd {
  const fd = check(libc().socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "make unix socket");
  return new OwnedFd(asFd(fd));
}

/** struct sockaddr_un: family, then the path with its zero. */
function socketAddress(path: string): Uint8Array {
  assertSocketPath(path);
  const name = cString(path);
  const { bytes, view } = struct(2 + name.length);
  view.setUint16(0, AF_UNIX, true);
  bytes.set(name, 2);
  return bytes;
}

/** Pause between two tries to connect to a listener whose queue is full: connect(2) offers nothing to wait on. */
const CONNECT_RETRY_MS = 5;

/** A connected non-blocking socket; the caller owns it. For plain streams use connectUnix. */
export async function connectSocket(path: string, options: DeadlineOptions = {}): Promise<OwnedFd> {
  const address = socketAddress(path);
  const started = performance.now();
  const socket = newSocket();
  try {
    for (;;) {
      options.signal?.throwIfAborted();
      if (libc().connect(socket.fd, address, address.length) >= 0) return socket;
      const errno = lastErrno();
      if (errno !== "EAGAIN" && errno !== "EINTR") throw new SystemError(errno, `connect ${path}`);
      if (options.timeoutMs !== undefined && performance.now() - started >= options.timeoutMs) {
        throw new DeadlineError(`connection to ${path}`, options.timeoutMs);
      }
      await sleep(CONNECT_RETRY_MS, options.signal);
    }
  } catch (thrown) {
    socket.close();
    throw thrown;
  }
}

/** Connects to `path`, sends one descriptor with `data`, and closes: how a pty master goes to an OCI --console-socket. */
export async function sendFdTo(path: string, data: Uint8Array, fd: Fd, options: DeadlineOptions = {}): Promise<void> {
  using socket = await connectSocket(path, options);
  await withDeadline(`descriptor taken by ${path}`, sendFds(socket.fd, data, [fd], options.signal), options);
}

/**
 * A listening non-blocking socket, 0600, on a new path, for a program that takes it as a descriptor: its clients can
 * connect at once and need not wait until it is up. A file that is there already is an error. The caller owns both.
 */
export function listenSocket(path: string, backlog: number): OwnedFd {
  const address = socketAddress(path);
  const socket = newSocket();
  const umask = process.umask(0o177);
  try {
    check(libc().bind(socket.fd, address, address.length), `listen on ${path}`);
    check(libc().listen(socket.fd, backlog), `listen on ${path}`);
    return socket;
  } catch (thrown) {
    socket.close();
    throw thrown;
  } finally {
    process.umask(umask);
  }
}

/** Receives the one pty master that a runtime sends to its --console-socket; the sender may have exited by then. */
export class ConsoleListener implements AsyncDisposable, Disposable {
  readonly path: string;
  readonly #socket: OwnedFd;
  #polled: PolledFd | undefined;

  private constructor(path: string, socket: OwnedFd) {
    this.path = path;
    this.#socket = socket;
  }

  /** Listens on a new socket, 0600. A file that is there already is an error: the caller chooses a fresh name. */
  static listen(path: string): ConsoleListener {
    return new ConsoleListener(path, listenSocket(path, 1));
  }

  /** The pty master, which the caller then owns. A peer that sends none is "failed-precondition". */
  async receive(options: DeadlineOptions = {}): Promise<OwnedFd> {
    const stop = new AbortController();
    const onAbort = (): void => stop.abort(options.signal?.reason);
    options.signal?.addEventListener("abort", onAbort, { once: true });
    if (options.signal?.aborted === true) onAbort();
    const timer =
      options.timeoutMs === undefined
        ? undefined
        : setTimeout(
            () => stop.abort(new DeadlineError(`pty master on ${this.path}`, options.timeoutMs ?? 0)),
            options.timeoutMs,
          );
    try {
      using peer = await this.#accept(stop.signal);
      const { fds } = await receiveFds(peer.fd, 4096, 1, stop.signal);
      const [master] = fds;
      if (master === undefined)
        throw new HearthError("failed-precondition", `receive pty master on ${this.path}: none sent`);
      return master;
    } finally {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", onAbort);
    }
  }

  async #accept(signal: AbortSignal): Promise<OwnedFd> {
    for (;;) {
      signal.throwIfAborted();
      const fd = libc().accept4(this.#socket.fd, null, null, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (fd >= 0) return new OwnedFd(asFd(fd));
      const errno = lastErrno();
      if (errno === "EAGAIN") {
        this.#polled ??= pollFd(this.#socket.fd);
        await this.#polled.wait("read", signal);
      } else if (errno !== "EINTR" && errno !== "ECONNABORTED") {
        throw new SystemError(errno, `accept on ${this.path}`);
      }
    }
  }

  /** Stops listening and removes the socket file; a receive that still waits for a connection rejects. Idempotent. */
  close(): void {
    if (!this.#socket.isOpen) return;
    this.#polled?.cancel("read", new HearthError("cancelled", `receive pty master on ${this.path}: closed`));
    this.#polled?.release();
    this.#socket.close();
    try {
      unlinkSync(this.path);
    } catch (thrown) {
      if (!isNotFound(thrown)) throw toHearthError(thrown, `remove ${this.path}`);
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}
