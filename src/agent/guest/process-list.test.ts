import { expect, test } from "bun:test";
import { formatShortTable, formatTable } from "./process-list.ts";

test("a table as ps -ef has it", () => {
  const now = new Date(2026, 10, 24, 12, 0, 0);
  const bootMs = now.getTime() - 3_600_000;
  const old = {
    uid: 0,
    pid: 7,
    ppid: 1,
    tty: 0,
    state: "I",
    cpuTicks: 366_100,
    startTicks: 0,
    command: "[kworker/0:0]",
  };
  const young = {
    uid: 1000,
    pid: 12345,
    ppid: 7,
    tty: (136 << 8) | 3,
    state: "S",
    cpuTicks: 0,
    startTicks: 180_000,
    command: "sleep  1000",
  };
  expect(formatTable([old, young], now, bootMs)).toBe(
    [
      "UID    PID PPID  C STIME TTY       TIME CMD",
      "root     7    1 99 11:00 ?     01:01:01 [kworker/0:0]",
      "1000 12345    7  0 11:30 pts/3 00:00:00 sleep  1000",
      "",
    ].join("\n"),
  );
});

test("a table as ps x has it", () => {
  const shell = {
    uid: 0,
    pid: 7,
    ppid: 1,
    tty: (136 << 8) | 3,
    state: "S",
    cpuTicks: 12_345,
    startTicks: 0,
    command: "sh",
  };
  const other = { ...shell, pid: 1234, tty: 0, state: "R", cpuTicks: 99, command: "dd if=/dev/zero" };
  expect(formatShortTable([shell, other])).toBe(
    [
      "    PID TTY   STAT TIME COMMAND",
      "      7 pts/3 S    2:03 sh",
      "   1234 ?     R    0:00 dd if=/dev/zero",
      "",
    ].join("\n"),
  );
});

test("a process of another day has its date", () => {
  const now = new Date(2026, 10, 24, 12, 0, 0);
  const row = { uid: 0, pid: 1, ppid: 0, tty: (5 << 8) | 1, state: "S", cpuTicks: 0, startTicks: 0, command: "init" };
  expect(formatTable([row], now, new Date(2026, 8, 3, 1, 2, 3).getTime())).toContain(" Sep03 console 00:00:00 init\n");
});
