import { expect, test } from "bun:test";
import { byteSize } from "./byte-size.ts";

test.each<[string, bigint]>([
  ["0", 0n],
  ["-1", -1n],
  ["9223372036854771712", 9223372036854771712n],
  ["64m", 67108864n],
  ["64M", 67108864n],
  ["64MB", 67108864n],
  ["64MiB", 67108864n],
  ["1.5g", 1610612736n],
  ["2 k", 2048n],
  ["7b", 7n],
])("%s is %d bytes", (text, bytes) => {
  expect(byteSize(text)).toBe(bytes);
});

test.each(["", "much", "m", "-5m", "1e3", "5x", "1.g", "0x10"])("%p is none", (text) => {
  expect(byteSize(text)).toBeUndefined();
});
