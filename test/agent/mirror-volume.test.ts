/** MirrorVolume on a real directory: what becomes of what is there, and which changes a watcher is told of. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { mirrorVolume } from "../../src/agent/guest/mirror-volume.ts";
import { MirrorVolumeRequestSchema } from "../../src/gen/agent_pb.ts";
import { agentPaths } from "../../src/paths.ts";

const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
const MODIFIED = 1_700_000_000_123_000_000n;

let dir: string;
let root: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "hearth-mirror-"));
  root = join(dir, "volumes/v");
  mkdirSync(root, { recursive: true });
});
afterEach(() => {
  rmSync(dir, { recursive: true, force: true });
});

type File = NonNullable<NonNullable<Parameters<typeof create<typeof MirrorVolumeRequestSchema>>[1]>["files"]>[number];

const directory = (path: string, mode = 0o755): File => ({ path, mode: 0o040000 | mode, ...owner });
const file = (path: string, text: string, mode = 0o644): File => {
  return { path, mode: 0o100000 | mode, ...owner, modified: MODIFIED, data: Buffer.from(text) };
};
const link = (path: string, target: string): File => ({ path, mode: 0o120777, ...owner, data: Buffer.from(target) });

function mirror(...files: File[]): void {
  const request = create(MirrorVolumeRequestSchema, { mountPoint: root, files: [directory(""), ...files] });
  mirrorVolume(request, agentPaths(dir));
}

const inode = (path: string): number => lstatSync(join(root, path)).ino;

describe("a volume", () => {
  test("has what is asked for, with mode and time", () => {
    mirror(directory("..1", 0o750), file("..1/key", "one", 0o400), link("..data", "..1"), link("key", "..data/key"));
    expect(readFileSync(join(root, "key"), "utf8")).toBe("one");
    expect(readlinkSync(join(root, "..data"))).toBe("..1");
    const { mode, mtimeMs } = statSync(join(root, "key"));
    expect(mode & 0o7777).toBe(0o400);
    expect(mtimeMs).toBeCloseTo(1_700_000_000_123, 1);
    expect(statSync(join(root, "..1")).mode & 0o7777).toBe(0o750);
  });

  test("is changed where it is not so, and nowhere else", () => {
    mirror(directory("..1"), file("..1/key", "one"), link("..data", "..1"), link("key", "..data/key"), file("f", "f"));
    const before = { key: inode("key"), f: inode("f"), data: inode("..data") };
    mirror(directory("..2"), file("..2/key", "two"), link("..data", "..2"), link("key", "..data/key"), file("f", "f"));
    expect(readFileSync(join(root, "key"), "utf8")).toBe("two");
    expect(readdirSync(root).sort()).toEqual(["..2", "..data", "f", "key"]);
    expect({ key: inode("key"), f: inode("f") }).toEqual({ key: before.key, f: before.f });
    expect(inode("..data")).not.toBe(before.data);
  });

  test("takes other modes and other content of the same file", () => {
    mirror(file("f", "one", 0o600));
    const before = inode("f");
    mirror(file("f", "one", 0o640));
    expect({ inode: inode("f"), mode: statSync(join(root, "f")).mode & 0o7777 }).toEqual({
      inode: before,
      mode: 0o640,
    });
    mirror(file("f", "two", 0o640));
    expect(readFileSync(join(root, "f"), "utf8")).toBe("two");
    expect(readdirSync(root)).toEqual(["f"]);
  });

  test("has a file of another kind in the place of one", () => {
    mirror(directory("a"), file("a/f", "f"), link("b", "a"), file("c", "c"));
    mirror(file("a", "file"), directory("b"), file("b/f", "inside"), link("c", "b"));
    expect(readFileSync(join(root, "a"), "utf8")).toBe("file");
    expect(readFileSync(join(root, "b/f"), "utf8")).toBe("inside");
    expect(readlinkSync(join(root, "c"))).toBe("b");
    mirror(link("a", "b"), directory("b"), directory("c"));
    expect(readlinkSync(join(root, "a"))).toBe("b");
    expect(lstatSync(join(root, "c")).isDirectory()).toBe(true);
    expect(readdirSync(join(root, "b"))).toEqual([]);
  });

  test("may have a name that something else was given for a moment", () => {
    mirror(link("..data", "..1"), link("..data_tmp", "..2"));
    mirror(link("..data", "..2"));
    expect(readdirSync(root)).toEqual(["..data"]);
    expect(readlinkSync(join(root, "..data"))).toBe("..2");
  });
});

describe("refused", () => {
  test.each(["..", "../x", "a/../b", "/a", "a//b", "./a", "a/", "a\0b"])("the path %j", (path) => {
    expect(() => mirror(file(path, ""))).toThrow("not a plain relative path");
  });

  test("a place that is not the agent's", () => {
    const request = create(MirrorVolumeRequestSchema, { mountPoint: "/etc", files: [directory("")] });
    expect(() => mirrorVolume(request, agentPaths(dir))).toThrow("not below");
  });

  test("a device", () => {
    expect(() => mirror({ path: "d", mode: 0o020600, ...owner })).toThrow("neither a directory nor a link");
  });
});

test("a link that leads out of the volume is replaced, not followed", () => {
  const outside = join(dir, "outside");
  mkdirSync(outside);
  writeFileSync(join(outside, "f"), "untouched");
  symlinkSync(outside, join(root, "d"));
  mirror(directory("d"), file("d/f", "mine"));
  expect(readFileSync(join(outside, "f"), "utf8")).toBe("untouched");
  expect(readFileSync(join(root, "d/f"), "utf8")).toBe("mine");
});
