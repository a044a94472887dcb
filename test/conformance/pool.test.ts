/** The conformance suite once more, in VMs of a pool. */
import { expect, test } from "bun:test";
import { registerFromPool } from "./register.ts";

const claims = registerFromPool();

test("every VM came from the pool", async () => {
  const { hits, misses } = await claims();
  expect(misses).toBe(0);
  // The pod's, and those of the cases that have one of their own.
  expect(hits).toBeGreaterThan(1);
});
