import { describe, expect, test } from "bun:test";
import { constants } from "node:os";
import { parseSignal, signalName } from "./signals.ts";

test.each([
  ["SIGTERM", 15],
  ["TERM", 15],
  ["term", 15],
  ["sigterm", 15],
  ["15", 15],
  [" 9 ", 9],
  ["64", 64],
  ["SIGRTMIN", 34],
  ["RTMIN+3", 37],
  ["SIGRTMAX", 64],
  ["SIGRTMAX-14", 50],
  ["RTMAX-30", 34],
  ["SIGPOLL", 29],
  ["IOT", 6],
])("parseSignal(%j) is %d", (text, number) => {
  expect(parseSignal(text)).toBe(number);
});

test.each(["", "0", "65", "-1", "1.5", "15x", "FOO", "SIG", "RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMAX-31", "__proto__"])(
  "parseSignal(%j) is refused",
  (text) => {
    expect(() => parseSignal(text)).toThrow("unknown signal");
  },
);

describe("signalName", () => {
  test("is what parseSignal reads, for every number that has a name", () => {
    for (let number = 1; number <= 64; number++) {
      if (number === 32 || number === 33) continue;
      expect(parseSignal(signalName(number))).toBe(number);
    }
    expect(signalName(33)).toBe("SIG33");
  });

  test("agrees with the runtime's own table", () => {
    for (const [name, number] of Object.entries(constants.signals)) expect(parseSignal(name)).toBe(number);
  });
});
