import { expect, test } from "bun:test";
import { TRANSLATION_BUFFER_FILLS_MAX } from "../limits.ts";
import { makeRoomForVcpus, missingSize } from "./resources.ts";

const MAX = { maxVcpus: 4, maxMemoryMib: 1000 };
const HAS = { vcpus: 2, memoryMib: 500 };

test.each([
  ["nothing", { vcpus: 0, memoryMib: 0 }, { vcpus: 0, memoryMib: 0, isShort: false }],
  ["less", { vcpus: 1, memoryMib: 100 }, { vcpus: 0, memoryMib: 0, isShort: false }],
  ["as much", HAS, { vcpus: 0, memoryMib: 0, isShort: false }],
  ["a little more: a block", { vcpus: 3, memoryMib: 501 }, { vcpus: 1, memoryMib: 128, isShort: false }],
  ["whole blocks", { vcpus: 4, memoryMib: 500 + 256 }, { vcpus: 2, memoryMib: 256, isShort: false }],
  ["all blocks there are room for", { vcpus: 2, memoryMib: 500 + 384 }, { vcpus: 0, memoryMib: 384, isShort: false }],
  ["more memory than may be had", { vcpus: 2, memoryMib: 1000 }, { vcpus: 0, memoryMib: 384, isShort: true }],
  ["more vCPUs than may be had", { vcpus: 9, memoryMib: 0 }, { vcpus: 2, memoryMib: 0, isShort: true }],
])("asked for %s", (_name, wanted, expected) => {
  expect(missingSize(HAS, MAX, wanted)).toEqual(expected);
});

test.each([
  ["enough room", [2], 0],
  ["a buffer that begins anew with the second filling", [0, 1, 15], 2],
  ["one that never does", [0], TRANSLATION_BUFFER_FILLS_MAX],
])("vCPUs and %s", async (_name, rooms, expected) => {
  let fills = 0;
  const fillTranslationBuffer = async () => {
    fills++;
    return {};
  };
  const hypervisor = { vcpuRoom: async () => rooms[Math.min(fills, rooms.length - 1)] ?? 0 };
  await makeRoomForVcpus({ hypervisor, agent: { agent: { fillTranslationBuffer } } }, 2, AbortSignal.timeout(1000));
  expect(fills).toBe(expected);
});
