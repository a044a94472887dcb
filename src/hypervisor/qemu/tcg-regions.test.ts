import { describe, expect, test } from "bun:test";
import { freeTcgRegions } from "./tcg-regions.ts";

const TOTAL = 134135808;
const infoJit = (used: number): string =>
  `Translation buffer state:\ngen code size       ${used}/${TOTAL}\nTB count            21485\n`;

describe("freeTcgRegions", () => {
  test.each([
    // Four vCPUs at most: 32 pieces of 4 MiB.
    [0, 2, 4, 30],
    [3_000_000, 2, 4, 30],
    [5_000_000, 2, 4, 29],
    [TOTAL - 1, 2, 4, 0],
    // 24: two each, 48 pieces.
    [0, 1, 24, 47],
    // 240: one each, however small.
    [0, 2, 240, 238],
  ])("%i bytes of code, %i of %i vCPUs: %i", (used, vcpus, maxVcpus, free) => {
    expect(freeTcgRegions(infoJit(used), vcpus, maxVcpus)).toBe(free);
  });

  test("says nothing where QEMU does not", () => {
    expect(freeTcgRegions("JIT information is only available with accel=tcg", 1, 2)).toBeUndefined();
  });
});
