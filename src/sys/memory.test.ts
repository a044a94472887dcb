import { expect, test } from "bun:test";
import { fileMappings, inPieces } from "./memory.ts";

test("mappings of files, not of devices, memfds or anonymous memory", () => {
  const maps = [
    "7f0000000000-7f0000002000 r-xp 00000000 08:01 42                 /usr/bin/with space",
    "7f0000002000-7f0000003000 rw-p 00000000 00:00 0 ",
    "7f0000003000-7f0000004000 rw-s 00000000 00:01 7                  /memfd:ram (deleted)",
    "7f0000004000-7f0000005000 rw-s 00000000 00:06 9                  /dev/kvm",
    "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                  [stack]",
  ].join("\n");
  expect(fileMappings(maps)).toEqual([{ start: 0x7f0000000000n, length: 0x2000n }]);
});

test("ranges are cut into pieces that cover them", () => {
  const ranges = [
    { start: 0x1000n, length: 0x2800n },
    { start: 0x8000n, length: 0x1000n },
  ];
  expect(inPieces(ranges, 0x1000n)).toEqual([
    { start: 0x1000n, length: 0x1000n },
    { start: 0x2000n, length: 0x1000n },
    { start: 0x3000n, length: 0x800n },
    { start: 0x8000n, length: 0x1000n },
  ]);
});
