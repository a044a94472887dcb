/** Copies of files in memory that no directory names: the same content, the same holes. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { copyToMemory } from "../../src/sys/memory-file.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";

const MIB = 1024 * 1024;
const BLOCK_BYTES = 512;

let place: Scratch;
beforeEach(() => {
  place = scratch();
});
afterEach(() => place[Symbol.dispose]());

/** A file of `size` bytes with these pieces and holes between them. */
function sparse(size: number, pieces: readonly (readonly [number, Uint8Array])[]): string {
  const path = place.path("source");
  const fd = openSync(path, "w");
  ftruncateSync(fd, size);
  for (const [at, bytes] of pieces) writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
  return path;
}

const filled = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);

test.each<[string, number, [number, Uint8Array][]]>([
  ["nothing", 0, []],
  ["holes alone", 8 * MIB, []],
  ["one byte", 1, [[0, filled(1, 7)]]],
  [
    "content at the start, in the middle and at the end",
    64 * MIB + 5,
    [
      [0, filled(5000, 1)],
      [32 * MIB, filled(MIB, 2)],
      [64 * MIB, filled(5, 3)],
    ],
  ],
  ["no hole", 3 * MIB + 1, [[0, filled(3 * MIB + 1, 4)]]],
])("%s", (_name, size, pieces) => {
  const path = sparse(size, pieces);
  using memory = copyToMemory(path, "copy");
  expect(readlinkSync(`/proc/self/fd/${memory.fd}`)).toBe("/memfd:copy (deleted)");
  const stat = fstatSync(memory.fd);
  expect(stat.size).toBe(size);
  // Whole pages, and what a file system rounds a piece up to.
  const written = pieces.reduce((sum, [, bytes]) => sum + bytes.length + 2 * 4096, 0);
  expect(stat.blocks * BLOCK_BYTES).toBeLessThanOrEqual(written);
  expect(Bun.hash(readFileSync(`/proc/self/fd/${memory.fd}`))).toBe(Bun.hash(readFileSync(path)));
});

test("a copy is a copy: neither sees what is written to the other", () => {
  const path = sparse(4096, [[0, filled(4096, 1)]]);
  using memory = copyToMemory(path, "copy");
  writeFileSync(path, filled(4096, 2));
  expect(readFileSync(`/proc/self/fd/${memory.fd}`)[0]).toBe(1);
  writeSync(memory.fd, filled(1, 3), 0, 1, 0);
  expect(readFileSync(path)[0]).toBe(2);
});

test("a file that is not there is not-found, and leaves no descriptor", () => {
  const count = () => readFileSync("/proc/self/status", "utf8").match(/^FDSize:\s+(\d+)/m)?.[1];
  const before = count();
  for (let index = 0; index < 100; index++) {
    expect(() => copyToMemory(place.path("none"), "copy")).toThrow(expect.objectContaining({ code: "not-found" }));
  }
  expect(count()).toBe(before);
});
