import { expect, test } from "bun:test";
import { goDurationMs } from "./go-duration.ts";

test.each([
  ["5s", 5000],
  ["1m30s", 90_000],
  ["250ms", 250],
  ["1.5h", 5_400_000],
  ["0", 0],
  ["0s", 0],
  ["100us", 0.1],
])("%s is %d ms", (text, ms) => {
  expect(goDurationMs(text)).toBeCloseTo(ms);
});

test.each(["", "5", "s", "-5s", "5 s", "5x", "5s6", "1e3s"])("%p is none", (text) => {
  expect(goDurationMs(text)).toBeUndefined();
});
