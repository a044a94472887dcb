/** The system's clocks. */
import { check, lazyLibc, struct } from "./libc.ts";

/** Source: linux/time.h. */
const CLOCK_IDS = { realtime: 0, monotonic: 1, boottime: 7 } as const;
export type ClockName = keyof typeof CLOCK_IDS;

const NANOSECONDS = 1_000_000_000n;

const libc = lazyLibc({
  clock_gettime: { args: ["i32", "ptr"], returns: "i32" },
  clock_settime: { args: ["i32", "ptr"], returns: "i32" },
});

/** Nanoseconds of a clock: since 1970 (realtime), since boot without (monotonic) or with (boottime) time asleep. */
export function clockNanoseconds(clock: ClockName): bigint {
  const { bytes, view } = struct(16);
  check(libc().clock_gettime(CLOCK_IDS[clock], bytes), `read clock ${clock}`);
  return view.getBigInt64(0, true) * NANOSECONDS + view.getBigInt64(8, true);
}

/** Sets the system's time of day; needs CAP_SYS_TIME. */
export function setRealtime(nanoseconds: bigint): void {
  const { bytes, view } = struct(16);
  view.setBigInt64(0, nanoseconds / NANOSECONDS, true);
  view.setBigInt64(8, nanoseconds % NANOSECONDS, true);
  check(libc().clock_settime(CLOCK_IDS.realtime, bytes), "set clock realtime");
}
