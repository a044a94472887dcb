import { expect, test } from "bun:test";
import { constants } from "node:os";
import { check, checkReturned, cString, errnoName, fromCString, lastErrno, lazyLibc } from "./libc.ts";

test("errno names agree with the runtime's own table", () => {
  // Two names of one number, of which the kernel's headers prefer the other.
  const aliases = new Set(["EWOULDBLOCK", "ENOTSUP"]);
  for (const [name, number] of Object.entries(constants.errno)) {
    if (!aliases.has(name)) expect(errnoName(number)).toBe(name);
  }
  expect(errnoName(133)).toBe("EHWPOISON");
  expect(errnoName(41)).toBe("E41");
  expect(errnoName(9999)).toBe("E9999");
});

test("check turns errno into a SystemError, also at the first failing call", () => {
  const libc = lazyLibc({ close: { args: ["i32"], returns: "i32" }, chdir: { args: ["ptr"], returns: "i32" } });
  expect(() => check(libc().close(1_000_000), "close it", { fd: 1 })).toThrow("close it: EBADF");
  expect(libc().chdir(cString("/no/such/dir"))).toBe(-1);
  expect(lastErrno()).toBe("ENOENT");
  expect(check(5, "unused")).toBe(5);
  expect(() => checkReturned(22, "make it")).toThrow("make it: EINVAL");
});

test("strings end with a zero and hold none", () => {
  expect(cString("aü")).toEqual(new Uint8Array([97, 0xc3, 0xbc, 0]));
  expect(() => cString("a\0b")).toThrow("zero byte");
  expect(fromCString(new Uint8Array([97, 98, 0, 99]))).toBe("ab");
  expect(fromCString(new Uint8Array([97]))).toBe("a");
});
