import { expect, test } from "bun:test";
import { bestFit } from "./vm-pool.ts";

const shape = (vcpus: number, memoryMib: number) => ({ config: { vcpus, memoryMib } });
const shapes = [shape(2, 1024), shape(1, 256), shape(4, 1024), shape(1, 4096)];

test.each([
  ["no need: the first", undefined, [2, 1024]],
  ["the smallest of all", { vcpus: 1, memoryMib: 128 }, [1, 256]],
  ["exactly one", { vcpus: 1, memoryMib: 256 }, [1, 256]],
  ["a bit more than one", { vcpus: 1, memoryMib: 257 }, [2, 1024]],
  ["more vCPUs than the smallest has", { vcpus: 3, memoryMib: 100 }, [4, 1024]],
  ["much memory", { vcpus: 1, memoryMib: 2048 }, [1, 4096]],
  ["more than any: the largest, to be grown", { vcpus: 9, memoryMib: 9999 }, [1, 4096]],
] as const)("%s", (_name, need, [vcpus, memoryMib]) => {
  expect(bestFit(shapes, need)?.config).toEqual({ vcpus, memoryMib });
});
