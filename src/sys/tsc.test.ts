import { expect, test } from "bun:test";
import { measureTscKhz } from "./tsc.ts";

test("the counter counts at one rate, whoever looks and however long", async () => {
  const [short, long] = [await measureTscKhz(10), await measureTscKhz(100)];
  // From half a GHz to ten.
  expect(long).toBeWithin(500_000, 10_000_000);
  // KVM takes two rates for one that differ by 250 of a million.
  expect(Math.abs(short - long) / long).toBeLessThan(250e-6);
});
