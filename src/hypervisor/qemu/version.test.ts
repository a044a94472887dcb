import { describe, expect, test } from "bun:test";
import { checkQemuVersion, parseQemuVersion } from "./version.ts";

describe("parseQemuVersion", () => {
  test.each([
    ["QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright", { major: 7, minor: 2, micro: 22 }],
    ["QEMU emulator version 10.0.2\n", { major: 10, minor: 0, micro: 2 }],
    ["QEMU emulator version 9.1\n", { major: 9, minor: 1, micro: 0 }],
    ["warning: x\nQEMU emulator version 6.2.0\n", { major: 6, minor: 2, micro: 0 }],
    ["crun version 1.8", undefined],
    ["", undefined],
  ])("%p", (text, version) => {
    expect(parseQemuVersion(text)).toEqual(version);
  });
});

describe("checkQemuVersion", () => {
  test.each([
    [4, 2, 0],
    [6, 1, 9],
    [5, 9, 0],
  ])("%i.%i.%i is too old", (major, minor, micro) => {
    expect(() => checkQemuVersion({ major, minor, micro }, "/q")).toThrow(
      `use qemu /q: version ${major}.${minor}.${micro} is older than 6.2.0`,
    );
  });

  test("between the two minimums it warns", () => {
    expect(checkQemuVersion({ major: 7, minor: 1, micro: 9 }, "/q")).toContain("older than 7.2.0");
  });

  test.each([
    [7, 2, 0],
    [10, 0, 0],
  ])("%i.%i.%i is fine", (major, minor, micro) => {
    expect(checkQemuVersion({ major, minor, micro }, "/q")).toBeUndefined();
  });
});
