import { describe, expect, test } from "bun:test";
import { parseMountinfo, unescapeOctal } from "./mountinfo.ts";

describe("parseMountinfo", () => {
  test("reads every field, with any number of optional ones", () => {
    const text =
      "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n" +
      "37 35 0:5 / /run rw - tmpfs tmpfs rw,size=1024k\n";
    expect(parseMountinfo(text)).toEqual([
      {
        id: 36,
        parentId: 35,
        device: "98:0",
        root: "/mnt1",
        mountPoint: "/mnt2",
        options: ["rw", "noatime"],
        propagation: ["master:1", "shared:2"],
        type: "ext3",
        source: "/dev/root",
        superOptions: ["rw", "errors=continue"],
      },
      {
        id: 37,
        parentId: 35,
        device: "0:5",
        root: "/",
        mountPoint: "/run",
        options: ["rw"],
        propagation: [],
        type: "tmpfs",
        source: "tmpfs",
        superOptions: ["rw", "size=1024k"],
      },
    ]);
  });

  test("a mount point with blanks, and one named -", () => {
    const [first, second] = parseMountinfo(
      "1 0 0:1 / /a\\040b\\011c\\012d\\134e\\043f rw - tmpfs none rw\n2 0 0:1 / - rw shared:1 - tmpfs - rw\n",
    );
    expect(first?.mountPoint).toBe("/a b\tc\nd\\e#f");
    expect(second?.mountPoint).toBe("-");
    expect(second?.type).toBe("tmpfs");
    expect(second?.source).toBe("-");
  });

  test("an empty source is empty", () => {
    expect(parseMountinfo("1 0 0:1 / /a rw - tmpfs  rw\n")[0]?.source).toBe("");
  });

  test.each(["garbage", "1 2 3", "1 0 0:1 / /a rw shared:1"])("refuses %j", (line) => {
    expect(() => parseMountinfo(line)).toThrow("parse mountinfo line");
  });
});

test.each([
  ["plain", "plain"],
  ["\\040", " "],
  ["\\134040", "\\040"],
  ["ü\\040ö", "ü ö"],
  ["\\09", "\\09"],
  ["\\", "\\"],
])("unescapeOctal(%j) is %j", (text, expected) => {
  expect(unescapeOctal(text)).toBe(expected);
});
