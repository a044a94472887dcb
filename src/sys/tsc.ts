/** The time stamp counter of the CPU: the clock of an emulated guest, whose kernel has to be told how fast it counts. */
import { linkSymbols } from "bun:ffi";
import { sleep } from "../util/wait.ts";
import { mapCode } from "./code-page.ts";

/** No library has it as a function. Source: Intel SDM volume 2, "RDTSC". */
const CODE = Uint8Array.of(
  ...[0x0f, 0x31], //             rdtsc
  ...[0x48, 0xc1, 0xe2, 0x20], // shl rdx, 32
  ...[0x48, 0x09, 0xd0], //       or  rax, rdx
  0xc3, //                        ret
);
/** Readings of both clocks at each end; the quickest of them counts. */
const READINGS = 20;

interface Reading {
  readonly counter: bigint;
  /** Of the monotonic clock, half way between before and after. */
  readonly nanoseconds: number;
}

let readCounter: (() => bigint) | undefined;

function counter(): bigint {
  readCounter ??= linkSymbols({ counter: { ptr: mapCode(CODE), args: [], returns: "u64" } }).symbols.counter;
  return readCounter();
}

function read(): Reading {
  let best = { counter: 0n, nanoseconds: 0, spent: Number.POSITIVE_INFINITY };
  for (let reading = 0; reading < READINGS; reading++) {
    const before = Bun.nanoseconds();
    const counted = counter();
    const spent = Bun.nanoseconds() - before;
    if (spent < best.spent) best = { counter: counted, nanoseconds: before + spent / 2, spent };
  }
  return best;
}

/** Counts in a millisecond, as seen over `durationMs`; over 10 to some millionths. */
export async function measureTscKhz(durationMs: number): Promise<number> {
  const from = read();
  await sleep(durationMs);
  const to = read();
  return Math.round((Number(to.counter - from.counter) * 1e6) / (to.nanoseconds - from.nanoseconds));
}
