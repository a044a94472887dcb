/** Learning that the system's time of day jumps: somebody set it, or the system slept. Costs nothing until it happens. */
import { SystemError } from "../errors.ts";
import { asFd, OwnedFd } from "./fd.ts";
import { FdReader } from "./fd-reader.ts";
import { check, lazyLibc, struct } from "./libc.ts";

/** Source: linux/time.h, sys/timerfd.h. */
const CLOCK_REALTIME = 0;
const TFD_NONBLOCK = 0o4000;
const TFD_CLOEXEC = 0o2000000;
const TFD_TIMER_ABSTIME = 1;
const TFD_TIMER_CANCEL_ON_SET = 2;
/** struct itimerspec: seconds and nanoseconds of the interval, then of the value. */
const ITIMERSPEC_BYTES = 32;
const VALUE_SECONDS = 16;
/** The kernel takes it for its last moment. */
const TIME_MAX = 0x7fff_ffff_ffff_ffffn;
const EXPIRATIONS_BYTES = 8;

const libc = lazyLibc({
  timerfd_create: { args: ["i32", "i32"], returns: "i32" },
  timerfd_settime: { args: ["i32", "i32", "ptr", "ptr"], returns: "i32" },
});

/**
 * A timer that never expires and that the kernel cancels when the clock is set or the system wakes up.
 * Source: timerfd_create(2), TFD_TIMER_CANCEL_ON_SET.
 */
export class ClockJumps implements Disposable {
  readonly #reader: FdReader;

  /** Jumps from now on are told. */
  constructor() {
    const fd = check(libc().timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC), "make timer of clock jumps");
    this.#reader = new FdReader(new OwnedFd(asFd(fd)));
    const { bytes, view } = struct(ITIMERSPEC_BYTES);
    view.setBigInt64(VALUE_SECONDS, TIME_MAX, true);
    const flags = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET;
    check(libc().timerfd_settime(fd, flags, bytes, null), "set timer of clock jumps");
  }

  /** Resolves when the clock has jumped since the last call, however often. Rejects when disposed or aborted. */
  async next(signal?: AbortSignal): Promise<void> {
    try {
      for (;;) await this.#reader.read(EXPIRATIONS_BYTES, signal);
    } catch (thrown) {
      // The timer goes on by itself.
      if (!(thrown instanceof SystemError) || thrown.errno !== "ECANCELED") throw thrown;
    }
  }

  [Symbol.dispose](): void {
    this.#reader.close();
  }
}
