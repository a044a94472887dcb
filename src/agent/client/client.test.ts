import { expect, test } from "bun:test";
import { AGENT_RECONNECT_PAUSE_MS, VSOCK_CONNECT_ATTEMPTS_MAX, VSOCK_CONNECT_TIMEOUT_MS } from "../../limits.ts";
import { pauseAfterMs } from "./client.ts";

test("a clone that refuses at once has as long to learn its address as one that does not answer", () => {
  const refused = Array.from({ length: VSOCK_CONNECT_ATTEMPTS_MAX }, (_, index) => pauseAfterMs("vsock", index + 1, 0));
  expect(refused[0]).toBe(VSOCK_CONNECT_TIMEOUT_MS);
  expect(refused.reduce((sum, ms) => sum + ms, 0)).toBeGreaterThan(60_000);
});

test.each([
  ["vsock", 5, VSOCK_CONNECT_TIMEOUT_MS * 16, AGENT_RECONNECT_PAUSE_MS],
  ["virtio-serial", 1, 0, AGENT_RECONNECT_PAUSE_MS],
  ["virtio-serial", 6, 5000, AGENT_RECONNECT_PAUSE_MS],
] as const)("over %s after attempt %d of %d ms: %d ms", (transport, attempt, spentMs, expected) => {
  expect(pauseAfterMs(transport, attempt, spentMs)).toBe(expected);
});
