import { expect, test } from "bun:test";
import fc from "fast-check";
import { backoffMs } from "./backoff.ts";

test.each([
  [1, 1000],
  [2, 2000],
  [3, 4000],
  [6, 32_000],
  [7, 60_000],
  [1_000_000, 60_000],
])("after %d failures: %d ms", (failures, ms) => {
  expect(backoffMs(failures, { minMs: 1000, maxMs: 60_000 })).toBe(ms);
});

test("never shrinks, never leaves its range", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 5000 }), (failures) => {
      const range = { minMs: 7, maxMs: 900 };
      const now = backoffMs(failures, range);
      expect(now).toBeGreaterThanOrEqual(7);
      expect(now).toBeLessThanOrEqual(900);
      expect(backoffMs(failures + 1, range)).toBeGreaterThanOrEqual(now);
    }),
  );
});
