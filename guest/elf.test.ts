import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { HearthError } from "../src/errors.ts";
import { alignUp, isElf, loadSegments, parseElf, readInterpreter, readNeeded } from "./elf.ts";

describe("parseElf", () => {
  const self = new Uint8Array(readFileSync("/usr/bin/env"));

  test("reads loader and libraries of a dynamic program", () => {
    const elf = parseElf(self);
    expect(loadSegments(elf).length).toBeGreaterThan(1);
    expect(readInterpreter(elf)).toBe("/lib64/ld-linux-x86-64.so.2");
    expect(readNeeded(elf)).toContain("libc.so.6");
  });

  test.each([
    ["nothing", new Uint8Array()],
    ["text", new TextEncoder().encode("#!/bin/sh\n".repeat(20))],
    ["a header alone", self.subarray(0, 64)],
    ["half a file", self.subarray(0, self.length >> 1)],
    ["a 32-bit file", new Uint8Array(self).fill(1, 4, 5)],
  ])("refuses %s", (_, bytes) => {
    expect(() => parseElf(bytes)).toThrow(HearthError);
  });
});

test("isElf looks at the whole magic", () => {
  const bytes = new Uint8Array(64);
  bytes.set([0x7f, 0x45, 0x4c, 0x46]);
  expect(isElf(bytes)).toBe(true);
  bytes[3] = 0;
  expect(isElf(bytes)).toBe(false);
});

test("alignUp", () => {
  expect([0, 1, 4, 5].map((value) => alignUp(value, 4))).toEqual([0, 4, 4, 8]);
});
