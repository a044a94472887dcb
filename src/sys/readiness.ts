/** Waiting until a descriptor of any kind that poll(2) knows can be read or written, on the event loop. */
import { HearthError, SystemError } from "../errors.ts";
import { type Fd, socketpair } from "./fd.ts";
import {
  createEpoll,
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLL_CTL_MOD,
  EPOLL_EVENT_BYTES,
  epollControl,
  startPollThread,
} from "./poll-thread.ts";
import { RecordSocket } from "./record-socket.ts";

export type Interest = "read" | "write" | "hang-up";

/** Source: sys/epoll.h. Errors and hang-ups (0x18) are always reported and count as ready: the next call says what it is. */
const EPOLLIN = 0x001;
const EPOLLOUT = 0x004;
const EPOLLERR_OR_HUP = 0x018;
const EPOLLRDHUP = 0x2000;
const EPOLLONESHOT = 0x40000000;

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** The event loop's side of the poll thread. One per JavaScript thread, made at the first wait, as the event loop itself. */
class PollSet {
  readonly #epoll: Fd;
  readonly #byToken = new Map<number, PolledFd>();
  readonly #byFd = new Map<Fd, PolledFd>();
  #nextToken = 1;
  readonly #events: RecordSocket;

  constructor() {
    this.#epoll = createEpoll();
    const [ours, threads] = socketpair();
    startPollThread(this.#epoll, threads);
    this.#events = new RecordSocket(
      ours,
      EPOLL_EVENT_BYTES,
      (view, at) => this.#received(view, at),
      () => this.#lost(),
    );
  }

  acquire(fd: Fd): PolledFd {
    const known = this.#byFd.get(fd);
    if (known !== undefined && this.#isRegistered(known)) {
      known.users++;
      return known;
    }
    const polled = new PolledFd(this, fd, this.#nextToken++);
    const errno = epollControl(this.#epoll, EPOLL_CTL_ADD, fd, EPOLLONESHOT, polled.token);
    if (errno === "EPERM") polled.alwaysReady = true;
    else if (errno !== undefined) throw new SystemError(errno, `poll file descriptor ${fd}`);
    this.#byFd.set(fd, polled);
    this.#byToken.set(polled.token, polled);
    return polled;
  }

  /** False for a leftover: its descriptor was closed before it was released, and the number now means another file. */
  #isRegistered(polled: PolledFd): boolean {
    if (polled.alwaysReady) return false;
    const errno = epollControl(this.#epoll, EPOLL_CTL_MOD, polled.fd, polled.events() | EPOLLONESHOT, polled.token);
    return errno === undefined;
  }

  /** Should happen before the descriptor is closed; after, it must not touch the number's next owner. */
  remove(polled: PolledFd): void {
    this.#byToken.delete(polled.token);
    if (this.#byFd.get(polled.fd) !== polled) return;
    this.#byFd.delete(polled.fd);
    if (!polled.alwaysReady) epollControl(this.#epoll, EPOLL_CTL_DEL, polled.fd, 0, polled.token);
  }

  arm(polled: PolledFd, events: number): void {
    const errno = epollControl(this.#epoll, EPOLL_CTL_MOD, polled.fd, events | EPOLLONESHOT, polled.token);
    if (errno !== undefined) throw new SystemError(errno, `poll file descriptor ${polled.fd}`);
  }

  /** The event loop stays alive exactly while somebody waits. */
  countWaits(change: number): void {
    this.#events.countWaits(change);
  }

  #received(view: DataView, at: number): void {
    // Not by a BigInt: that is one more part of the engine that an emulated clone has to translate before its first answer.
    const token = view.getUint32(at + 4, true) + view.getUint32(at + 8, true) * 2 ** 32;
    this.#byToken.get(token)?.fired(view.getUint32(at, true));
  }

  /** Cannot happen while the process lives: the thread holds the other end. Waiting for ever would hide it. */
  #lost(): void {
    const error = new HearthError("internal", "poll thread ended");
    for (const polled of [...this.#byToken.values()]) polled.fail(error);
  }
}

/** Waits on one descriptor; made by `pollFd`. Several users of one descriptor share it, each calls `release`. */
export class PolledFd {
  readonly fd: Fd;
  readonly token: number;
  /** Regular files and some devices: they never make a caller wait. */
  alwaysReady = false;
  users = 1;
  readonly #set: PollSet;
  readonly #waiters: Record<Interest, Set<Waiter>> = { read: new Set(), write: new Set(), "hang-up": new Set() };

  constructor(set: PollSet, fd: Fd, token: number) {
    this.#set = set;
    this.fd = fd;
    this.token = token;
  }

  /**
   * Resolves when reading (writing) may get on, or the descriptor has an error or was hung up, as for the end of a pipe
   * whose other end nobody has any more. It is a hint: the call that follows must not block. Rejects when `signal` aborts
   * or `cancel` is called.
   */
  wait(interest: Interest, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted === true) return Promise.reject(signal.reason);
    if (this.alwaysReady && interest !== "hang-up") return Promise.resolve();
    return new Promise((resolve, reject) => {
      const settle = (step: () => void): void => {
        signal?.removeEventListener("abort", onAbort);
        this.#waiters[interest].delete(waiter);
        this.#set.countWaits(-1);
        step();
      };
      const waiter: Waiter = {
        resolve: () => settle(resolve),
        reject: (error) => settle(() => reject(error)),
      };
      const onAbort = (): void => waiter.reject(signal?.reason);
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiters[interest].add(waiter);
      this.#set.countWaits(1);
      try {
        this.#arm();
      } catch (thrown) {
        waiter.reject(thrown);
      }
    });
  }

  /** Rejects the waits for one interest. */
  cancel(interest: Interest, error: unknown): void {
    for (const waiter of [...this.#waiters[interest]]) waiter.reject(error);
  }

  /** Ends one user's use; the last one must call it before it closes the descriptor. */
  release(): void {
    this.users--;
    if (this.users === 0) this.#set.remove(this);
  }

  /** For the poll set only. */
  fired(events: number): void {
    const both = (events & EPOLLERR_OR_HUP) !== 0;
    if (both || (events & (EPOLLIN | EPOLLRDHUP)) !== 0) this.#wake("read");
    if (both || (events & EPOLLOUT) !== 0) this.#wake("write");
    if (both) this.#wake("hang-up");
    if (this.users > 0 && this.#isWaitedFor()) this.#arm();
  }

  /** For the poll set only. */
  fail(error: unknown): void {
    this.cancel("read", error);
    this.cancel("write", error);
    this.cancel("hang-up", error);
  }

  #wake(interest: Interest): void {
    for (const waiter of [...this.#waiters[interest]]) waiter.resolve();
  }

  /** For the poll set only. */
  events(): number {
    return (this.#waiters.read.size > 0 ? EPOLLIN | EPOLLRDHUP : 0) | (this.#waiters.write.size > 0 ? EPOLLOUT : 0);
  }

  #isWaitedFor(): boolean {
    return Object.values(this.#waiters).some((waiters) => waiters.size > 0);
  }

  #arm(): void {
    if (!this.alwaysReady) this.#set.arm(this, this.events());
  }
}

let pollSet: PollSet | undefined;

/** Registers a descriptor for waiting. Its owner calls `release` and then closes it. */
export function pollFd(fd: Fd): PolledFd {
  pollSet ??= new PollSet();
  return pollSet.acquire(fd);
}
