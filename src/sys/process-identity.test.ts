import { describe, expect, test } from "bun:test";
import { decodeWaitStatus } from "./child-reaper.ts";
import { identifyProcess, ownIdentity } from "./process-identity.ts";
import { isAlive, parseProcessStat, pidStartTime } from "./process-stat.ts";

const TAIL = "S 1 4821 4821 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 1000 100 18446744073709551615";

describe("parseProcessStat", () => {
  test.each(["sh", "a b", "a) (b", "((", ")) S 9 9", "x\ny", ""])("with the command %j", (command) => {
    expect(parseProcessStat(`4821 (${command}) ${TAIL}\n`)).toEqual({
      pid: 4821,
      command,
      state: "S",
      parentPid: 1,
      processGroup: 4821,
      session: 4821,
      startTime: 123456,
    });
  });

  test.each(["", "4821 sh S 1", "x (sh) S 1 2 3", "1 (sh) S 1"])("refuses %j", (text) => {
    expect(() => parseProcessStat(text)).toThrow("parse process stat");
  });
});

test("we are alive, and nobody else with our pid is", () => {
  const own = ownIdentity();
  expect(own.pid).toBe(process.pid);
  expect(isAlive(own)).toBe(true);
  expect(isAlive({ pid: own.pid, startTime: own.startTime + 1 })).toBe(false);
  expect(pidStartTime(0x3fffff)).toBeUndefined();
  expect(() => identifyProcess(0x3fffff)).toThrow("identify process 4194303: ESRCH");
});

test.each([
  [0x0000, { kind: "exited", code: 0 }],
  [0x0700, { kind: "exited", code: 7 }],
  [0xff00, { kind: "exited", code: 255 }],
  [0x0009, { kind: "signaled", signal: 9 }],
  [0x008b, { kind: "signaled", signal: 11 }],
  [0x0028, { kind: "signaled", signal: 40 }],
] as const)("decodeWaitStatus(%d)", (status, expected) => {
  expect(decodeWaitStatus(status)).toEqual(expected);
});
