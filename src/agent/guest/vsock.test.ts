import { expect, test } from "bun:test";
import { isTrusted } from "./vsock.ts";

test.each([
  ["root of the host", 2, 1, true],
  ["the last port of root's", 2, 1023, true],
  ["another user of the host", 2, 1024, false],
  ["a user with the highest port", 2, 0xffff_fffe, false],
  ["this guest to itself", 1, 1023, false],
  ["another guest", 3, 700, false],
  ["the hypervisor's address, which nobody has", 0, 700, false],
  ["any address", 0xffff_ffff, 700, false],
])("%s: CID %d, port %d", (_who, cid, port, expected) => {
  expect(isTrusted({ cid, port })).toBe(expected);
});
