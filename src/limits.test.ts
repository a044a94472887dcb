import { expect, test } from "bun:test";
import { KILL_GRACE_MS, POOL_SHUTDOWN_GRACE_MS, SANDBOX_END_GRACE_MS, VM_DESTROY_TIMEOUT_MS } from "./limits.ts";

test("a pool server that quits is gone within 10 s, whatever its VMs do", () => {
  // What is killed takes moments to be gone and cleared away.
  const marginMs = 3_000;
  const unanswered = VM_DESTROY_TIMEOUT_MS + VM_DESTROY_TIMEOUT_MS;
  const answeredAndStuck = KILL_GRACE_MS + VM_DESTROY_TIMEOUT_MS;
  const booting = SANDBOX_END_GRACE_MS;
  // They run side by side.
  const longest = Math.max(unanswered, answeredAndStuck, booting, POOL_SHUTDOWN_GRACE_MS);
  expect(longest + marginMs).toBeLessThanOrEqual(10_000);
});
