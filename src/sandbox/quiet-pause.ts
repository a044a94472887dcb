/**
 * Keeps the emulator of a paused VM asleep. With one thread for all vCPUs, QEMU switches the guest's clock on again after
 * it has paused them: the clock stands still, and the main loop wakes up time after time for the guest's next timer, which
 * never comes nearer; thousands of times a second when it is near. Paused once more, the guest is at another distance
 * from it. Source: QEMU 7.2 accel/tcg/tcg-accel-ops-rr.c, qemu_clock_enable in rr_cpu_thread_fn.
 */
import type { Hypervisor } from "../hypervisor/interface.ts";
import { PAUSE_ATTEMPTS_MAX, PAUSE_WAKEUPS_PER_S_MAX, PAUSE_WATCH_MS, QMP_CALL_TIMEOUT_MS } from "../limits.ts";
import { sleep } from "../util/wait.ts";

export interface QuietPauseOptions {
  /** Times QEMU's main thread has slept so far; undefined when it has gone. */
  readonly wakeups: () => number | undefined;
  /** False once somebody else has the VM: it is left alone then. */
  readonly isIdle: () => boolean;
  /** Lets the guest run for a moment and pauses it again. */
  readonly pauseAnew: () => Promise<void>;
  readonly sleep: (ms: number) => Promise<void>;
}

/** Resolves with the number of times the VM was paused anew; bounded, because it is an economy and no need. */
export async function settlePause({ wakeups, isIdle, pauseAnew, sleep }: QuietPauseOptions): Promise<number> {
  for (let attempt = 0; attempt < PAUSE_ATTEMPTS_MAX; attempt++) {
    const before = wakeups();
    await sleep(PAUSE_WATCH_MS);
    const after = wakeups();
    if (before === undefined || after === undefined || !isIdle()) return attempt;
    if (((after - before) * 1000) / PAUSE_WATCH_MS <= PAUSE_WAKEUPS_PER_S_MAX) return attempt;
    await pauseAnew();
  }
  return PAUSE_ATTEMPTS_MAX;
}

/** Lets a paused guest run for `ms` and pauses it again: at once when `claimed` aborts, whose claim waits for that. */
export async function runForAMoment(
  hypervisor: Pick<Hypervisor, "resume" | "pause">,
  ms: number,
  claimed: AbortSignal,
): Promise<void> {
  await hypervisor.resume(AbortSignal.timeout(QMP_CALL_TIMEOUT_MS));
  await sleep(ms, claimed).catch(() => undefined);
  await hypervisor.pause(AbortSignal.timeout(QMP_CALL_TIMEOUT_MS));
}
