import { expect, test } from "bun:test";
import { type CpuTime, completeCpuMax } from "./cpu-max.ts";

test.each<[CpuTime & { readonly shares?: number }, string, object]>([
  [{ period: 90_000 }, "50000 100000\n", { quota: 50_000, period: 90_000 }],
  [{ quota: 60_000 }, "50000 90000\n", { quota: 60_000, period: 90_000 }],
  [{ quota: -1, period: 0 }, "50000 90000\n", { quota: -1, period: 90_000 }],
  [{ period: 90_000n }, "max 100000\n", { quota: -1, period: 90_000n }],
  [{ quota: 1000, period: 2000 }, "max 100000\n", { quota: 1000, period: 2000 }],
  [{ shares: 5 }, "50000 90000\n", { shares: 5 }],
  [{ quota: 1000 }, "", { quota: 1000 }],
])("%p beside %p", (cpu, current, expected) => {
  expect(completeCpuMax(cpu, current)).toEqual(expected);
});
