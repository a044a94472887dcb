import { expect, test } from "bun:test";
import { completeResources } from "./update-resources.ts";

const LIMITED: Record<string, string> = { "cpu.max": "50000 100000\n", "memory.max": "33554432\n" };
const FREE: Record<string, string> = { "cpu.max": "max 100000\n", "memory.max": "max\n" };

test.each<[object, Record<string, string>, object]>([
  [{ cpu: { period: 90_000 } }, LIMITED, { cpu: { quota: 50_000, period: 90_000 } }],
  [{ cpu: { quota: -1 } }, LIMITED, { cpu: { quota: -1, period: 100_000 } }],
  [{ cpu: { shares: 7 } }, LIMITED, { cpu: { shares: 7 } }],
  [{ memory: { limit: -1 } }, LIMITED, { memory: { limit: -1, swap: -1 } }],
  [{ memory: { limit: -1, swap: 5 } }, LIMITED, { memory: { limit: -1, swap: 5 } }],
  [{ memory: { swap: 67_108_864 } }, LIMITED, { memory: { swap: 67_108_864, limit: 33_554_432 } }],
  [{ memory: { swap: -1 } }, LIMITED, { memory: { swap: -1 } }],
  [{ memory: { swap: 67_108_864 } }, FREE, { memory: { swap: 67_108_864 } }],
  [{ pids: { limit: 10 } }, FREE, { pids: { limit: 10 } }],
])("%p", (given, files, expected) => {
  expect(JSON.parse(completeResources(JSON.stringify(given), (file) => files[file]))).toEqual(expected);
});

test("integers beyond 2^53 stay as they are", () => {
  const json = '{"memory":{"limit":9223372036854771712}}';
  expect(completeResources(json, () => undefined)).toBe(json);
});
