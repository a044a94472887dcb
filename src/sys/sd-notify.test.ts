import { expect, test } from "bun:test";
import { SystemError } from "../errors.ts";
import { sdNotify, watchdogTimeoutMs } from "./sd-notify.ts";

test("nobody listens there, or no such name fits", () => {
  for (const path of ["/nonexistent/notify", "@hearth-nobody-listens-here", "x".repeat(200), ""]) {
    expect(() => sdNotify(path, ["READY=1"])).toThrow(SystemError);
  }
});

test.each([
  [{}, undefined],
  [{ WATCHDOG_USEC: "30000000" }, 30_000],
  [{ WATCHDOG_USEC: "30000000", WATCHDOG_PID: "7" }, 30_000],
  [{ WATCHDOG_USEC: "30000000", WATCHDOG_PID: "8" }, undefined],
  [{ WATCHDOG_USEC: "1" }, 1],
  [{ WATCHDOG_USEC: "0" }, undefined],
  [{ WATCHDOG_USEC: "soon" }, undefined],
])("watchdog of process 7 in the environment %j: %p ms", (environment, timeoutMs) => {
  expect(watchdogTimeoutMs(environment, 7)).toBe(timeoutMs);
});
