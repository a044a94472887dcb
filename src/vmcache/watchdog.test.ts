import { expect, test } from "bun:test";
import { silentLog } from "../log.ts";
import { startWatchdog } from "./watchdog.ts";

test("a check that fails feeds nothing, the next good one does", async () => {
  const happened: string[] = [];
  const { promise: fed, resolve } = Promise.withResolvers<void>();
  const outcomes = [true, false, false, true];
  const watchdog = startWatchdog({
    timeoutMs: 4,
    check: async () => {
      const isGood = outcomes.shift() ?? true;
      happened.push(isGood ? "good" : "bad");
      if (!isGood) throw new Error("no answer");
    },
    ping: () => {
      happened.push("ping");
      if (outcomes.length === 0) resolve();
    },
    log: silentLog,
  });
  await fed;
  watchdog[Symbol.dispose]();
  expect(happened).toEqual(["good", "ping", "bad", "bad", "good", "ping"]);
});

test("an answer that comes after the end feeds nothing", async () => {
  const answer = Promise.withResolvers<void>();
  const watchdog = startWatchdog({
    timeoutMs: 4,
    check: () => answer.promise,
    ping: () => {
      throw new Error("fed after the end");
    },
    log: {
      ...silentLog,
      warn: () => {
        throw new Error("warned after the end");
      },
    },
  });
  watchdog[Symbol.dispose]();
  answer.resolve();
  await answer.promise;
  await new Promise(setImmediate);
});
