/**
 * A virtio-serial port as the guest sees it: reading, writing, and whether anybody holds its other end.
 * Source: Linux drivers/char/virtio_console.c.
 */
import { HearthError, SystemError } from "../errors.ts";
import { asFd, type Fd, O_NOCTTY, O_NONBLOCK, O_RDWR, OwnedFd, openFd } from "./fd.ts";
import { lastErrno, lazyLibc, struct } from "./libc.ts";
import { createEpoll, EPOLL_CTL_ADD, EPOLL_EVENT_BYTES, epollControl } from "./poll-thread.ts";
import { type PolledFd, pollFd } from "./readiness.ts";

const libc = lazyLibc({
  read: { args: ["i32", "ptr", "u64"], returns: "i64" },
  write: { args: ["i32", "ptr", "u64"], returns: "i64" },
  poll: { args: ["ptr", "u64", "i32"], returns: "i32" },
  epoll_wait: { args: ["i32", "ptr", "i32", "i32"], returns: "i32" },
});

const POLLHUP = 0x010;
/** Source: sys/epoll.h. Hang-ups are always reported. */
const EPOLLIN = 0x001;
const EPOLLOUT = 0x004;
const EPOLLET = 0x8000_0000;

/** What a connection over the port needs; tests put something else in its place. */
export interface PortDevice {
  /** Bytes put into `buffer`, "again" when there are none now, "hang-up" when there are none and nobody is there. */
  read(buffer: Uint8Array): number | "again" | "hang-up";
  /** Bytes taken from `data`; "again" when none are now, also while nobody is there. */
  write(data: Uint8Array): number | "again";
  /** Whether the host has its end open. A close and a new open in quick succession cannot be told from no change. */
  isHostThere(): boolean;
  /** Resolves when reading or writing may get on, at once while nobody is there. */
  wait(interest: "read" | "write", signal: AbortSignal): Promise<void>;
}

/** Owns the open port; only one opener at a time is let in by the kernel. */
export class VirtioPort implements PortDevice, Disposable {
  readonly #owned: OwnedFd;
  #polled: PolledFd | undefined;
  #edges: Edges | undefined;

  constructor(path: string) {
    this.#owned = openFd(path, O_RDWR | O_NONBLOCK | O_NOCTTY);
  }

  get #fd(): Fd {
    return this.#owned.fd;
  }

  read(buffer: Uint8Array): number | "again" | "hang-up" {
    const count = Number(libc().read(this.#fd, buffer, BigInt(buffer.length)));
    if (count > 0) return count;
    if (count === 0) return "hang-up";
    return again("read");
  }

  write(data: Uint8Array): number | "again" {
    const count = Number(libc().write(this.#fd, data, BigInt(data.length)));
    return count >= 0 ? count : again("write");
  }

  isHostThere(): boolean {
    const { bytes, view } = struct(8);
    view.setInt32(0, this.#fd, true);
    return libc().poll(bytes, 1n, 0) <= 0 || (view.getInt16(6, true) & POLLHUP) === 0;
  }

  wait(interest: "read" | "write", signal: AbortSignal): Promise<void> {
    this.#polled ??= pollFd(this.#fd);
    return this.#polled.wait(interest, signal);
  }

  /**
   * Resolves when the host has its end open. While it has not, the port is always "ready", so this waits for edges: the
   * port is put into an epoll set of its own, edge-triggered, and that set is waited for. It goes with the port.
   */
  async waitForHost(signal: AbortSignal): Promise<void> {
    if (this.isHostThere()) return;
    this.#edges ??= watchEdges(this.#fd);
    const { set, polled } = this.#edges;
    for (;;) {
      libc().epoll_wait(set.fd, new Uint8Array(EPOLL_EVENT_BYTES), 1, 0);
      if (this.isHostThere()) return;
      await polled.wait("read", signal);
    }
  }

  /** The host learns that the port was closed. */
  [Symbol.dispose](): void {
    this.#polled?.release();
    this.#edges?.polled.release();
    this.#edges?.set.close();
    this.#edges = undefined;
    this.#owned.close();
  }
}

interface Edges {
  readonly set: OwnedFd;
  readonly polled: PolledFd;
}

function watchEdges(fd: Fd): Edges {
  const set = new OwnedFd(asFd(createEpoll()));
  const errno = epollControl(set.fd, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT | EPOLLET, 0);
  if (errno === undefined) return { set, polled: pollFd(set.fd) };
  set.close();
  throw new SystemError(errno, "watch virtio port");
}

function again(verb: string): "again" {
  const errno = lastErrno();
  if (errno === "EAGAIN" || errno === "EINTR") return "again";
  if (errno === "ENODEV") throw new HearthError("unavailable", `${verb} virtio port: it was unplugged`);
  throw new SystemError(errno, `${verb} virtio port`);
}
