import { expect, test } from "bun:test";
import { countCpuList } from "./hotplug.ts";

test.each([
  ["0\n", 1],
  ["0-3\n", 4],
  ["0-1,4,6-7\n", 5],
  ["\n", 0],
])("%p", (list, count) => {
  expect(countCpuList(list)).toBe(count);
});
