import { expect, test } from "bun:test";
import { PAUSE_ATTEMPTS_MAX, PAUSE_WAKEUPS_PER_S_MAX, PAUSE_WATCH_MS } from "../limits.ts";
import { runForAMoment, settlePause } from "./quiet-pause.ts";

const LOUD = 1000;
const QUIET = (PAUSE_WAKEUPS_PER_S_MAX * PAUSE_WATCH_MS) / 1000;

/** A VM that wakes up so often in each watch; the last number stays. */
function vm(perWatch: readonly number[], idleFor = Number.POSITIVE_INFINITY) {
  let watches = 0;
  let count = 0;
  let paused = 0;
  return {
    get paused() {
      return paused;
    },
    options: {
      wakeups: () => count,
      isIdle: () => watches <= idleFor,
      pauseAnew: async () => void paused++,
      sleep: async () => {
        count += perWatch[Math.min(watches, perWatch.length - 1)] ?? 0;
        watches++;
      },
    },
  };
}

test.each([
  ["quiet from the first", [QUIET], 0],
  ["quiet after two more pauses", [LOUD, QUIET + 1, 0], 2],
  ["never quiet", [LOUD], PAUSE_ATTEMPTS_MAX],
])("%s", async (_name, perWatch, expected) => {
  const one = vm(perWatch);
  expect(await settlePause(one.options)).toBe(expected);
  expect(one.paused).toBe(expected);
});

test("a VM that somebody took meanwhile is left alone", async () => {
  const one = vm([LOUD], 1);
  expect(await settlePause(one.options)).toBe(1);
});

test("one that has gone too", async () => {
  const one = vm([LOUD]);
  expect(await settlePause({ ...one.options, wakeups: () => undefined })).toBe(0);
});

test("a moment that a claim waits for is over at once, and the VM paused", async () => {
  const calls: string[] = [];
  const claimed = new AbortController();
  const resume = async () => {
    calls.push("resume");
    setTimeout(() => claimed.abort(), 0);
  };
  const pause = async () => void calls.push("pause");
  // Far longer than a test may take.
  await runForAMoment({ resume, pause }, 1_000_000, claimed.signal);
  expect(calls).toEqual(["resume", "pause"]);
});
