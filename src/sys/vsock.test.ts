import { expect, test } from "bun:test";
import { CID_MAX, CID_MIN, decodeAddress, encodeAddress, randomCid } from "./vsock.ts";

test("an address is laid out as the kernel has it", () => {
  const bytes = encodeAddress({ cid: 0xfffe_0102, port: 0x0304_0506 });
  expect([...bytes]).toEqual([40, 0, 0, 0, 6, 5, 4, 3, 2, 1, 0xfe, 0xff, 0, 0, 0, 0]);
  expect(decodeAddress(bytes)).toEqual({ cid: 0xfffe_0102, port: 0x0304_0506 });
});

test("a CID is random, and none of those with a meaning", () => {
  const cids = Array.from({ length: 1000 }, randomCid);
  expect(new Set(cids).size).toBeGreaterThan(990);
  for (const cid of cids) expect(cid >= CID_MIN && cid <= CID_MAX).toBe(true);
});
