import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  bindMount,
  listMounts,
  MS_NOATIME,
  MS_NODEV,
  makePrivate,
  makeShared,
  makeSlave,
  mount,
  mountOptionsAt,
  mountPointsBelow,
  mountsUnder,
  removeTreeWithoutMounts,
  unmount,
  unmountTree,
} from "../../src/sys/mount.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "hearth-mnt-"));
});
afterEach(() => {
  unmountTree(dir, { detach: true });
  rmSync(dir, { recursive: true, force: true });
});

function makeDir(...names: string[]): string {
  const path = join(dir, ...names);
  mkdirSync(path, { recursive: true });
  return path;
}

test("what the mount takes away that a path is on", () => {
  const target = makeDir("flagged");
  mount({ source: "x", target, type: "tmpfs", flags: MS_NODEV | MS_NOATIME });
  writeFileSync(join(target, "file"), "");
  expect(mountOptionsAt(join(target, "file"))).toEqual(["nodev", "noatime"]);
  expect(() => mountOptionsAt(join(target, "missing"))).toThrow("inspect mount of");
});

test("what is mounted below a directory, where nothing hides it", () => {
  const outer = makeDir("outer");
  const tmpfs = (...names: string[]): void => mount({ source: "x", target: makeDir("outer", ...names), type: "tmpfs" });
  tmpfs();
  tmpfs("a");
  tmpfs("a", "deep");
  tmpfs("hidden", "below");
  tmpfs("hidden");
  makeDir("outer", "hidden", "below");
  tmpfs("twice");
  tmpfs("twice");
  tmpfs("white space");
  symlinkSync(outer, join(dir, "link"));
  const expected = ["a", "a/deep", "hidden", "twice", "white space"];
  expect(mountPointsBelow(outer)).toEqual(expected);
  expect(mountPointsBelow(join(dir, "link"))).toEqual(expected);
  expect(mountPointsBelow(join(outer, "a", "deep"))).toEqual([]);
  expect(mountPointsBelow(join(dir, "missing"))).toEqual([]);
});

describe("mount", () => {
  test("mounts with type, flags and data, and is listed", () => {
    const target = makeDir("a b");
    mount({ source: "hearth", target, type: "tmpfs", flags: MS_NODEV, data: "size=64k,mode=711" });
    const [entry] = mountsUnder(dir);
    expect(entry).toMatchObject({ mountPoint: target, type: "tmpfs", source: "hearth" });
    expect(entry?.options).toContain("nodev");
    expect(entry?.superOptions).toContain("size=64k");
    expect(unmount(target)).toBe(true);
    expect(unmount(target)).toBe(false);
    expect(unmount(join(dir, "missing"))).toBe(false);
    expect(mountsUnder(dir)).toEqual([]);
  });

  test("reports what failed", () => {
    expect(() => mount({ source: "x", target: join(dir, "none"), type: "tmpfs" })).toThrow(
      `mount x on ${join(dir, "none")}: ENOENT`,
    );
    expect(() => mount({ source: "x", target: dir, type: "nofs" })).toThrow("ENODEV");
  });

  test("a busy mount is busy unless detached", () => {
    const target = makeDir("m");
    mount({ source: "hearth", target, type: "tmpfs" });
    writeFileSync(join(target, "f"), "");
    const fd = openSync(join(target, "f"), "r");
    expect(() => unmount(target)).toThrow("EBUSY");
    expect(unmount(target, { detach: true })).toBe(true);
    closeSync(fd);
  });
});

describe("bindMount", () => {
  test("shows the source, writable or read-only", () => {
    const source = makeDir("source");
    const target = makeDir("target");
    bindMount(source, target);
    writeFileSync(join(target, "f"), "through");
    expect(readFileSync(join(source, "f"), "utf8")).toBe("through");
    unmount(target);
    bindMount(source, target, { readOnly: true });
    expect(() => writeFileSync(join(target, "g"), "")).toThrow("EROFS");
    writeFileSync(join(source, "g"), "");
    expect(readdirSync(target).sort()).toEqual(["f", "g"]);
  });

  test("recursive takes the mounts below along, read-only too", () => {
    const source = makeDir("source");
    const inner = makeDir("source", "inner");
    mount({ source: "hearth", target: inner, type: "tmpfs" });
    const target = makeDir("target");
    bindMount(source, target, { recursive: true, readOnly: true });
    expect(() => writeFileSync(join(target, "inner", "f"), "")).toThrow("EROFS");
    writeFileSync(join(inner, "f"), "");
    expect(existsSync(join(target, "inner", "f"))).toBe(true);
    const plain = makeDir("plain");
    bindMount(source, plain);
    expect(existsSync(join(plain, "inner", "f"))).toBe(false);
  });

  test("read-only is read-only in every copy of a shared target", () => {
    const source = makeDir("source");
    const shared = makeDir("shared");
    bindMount(shared, shared);
    makePrivate(shared);
    makeShared(shared);
    const peer = makeDir("peer");
    bindMount(shared, peer);
    bindMount(source, makeDir("shared", "in"), { readOnly: true });
    expect(() => writeFileSync(join(peer, "in", "f"), "")).toThrow("EROFS");
  });

  test("slave: what came along is unmounted here only", () => {
    const source = makeDir("source");
    bindMount(source, source);
    makePrivate(source);
    makeShared(source);
    mount({ source: "hearth", target: makeDir("source", "inner"), type: "tmpfs" });
    writeFileSync(join(source, "inner", "f"), "kept");
    const target = makeDir("target");
    bindMount(source, target, { recursive: true, slave: true });
    expect(readFileSync(join(target, "inner", "f"), "utf8")).toBe("kept");
    unmountTree(target, { detach: true });
    expect(readFileSync(join(source, "inner", "f"), "utf8")).toBe("kept");
  });

  test("binds a file", () => {
    writeFileSync(join(dir, "a"), "content");
    writeFileSync(join(dir, "b"), "");
    bindMount(join(dir, "a"), join(dir, "b"), { readOnly: true });
    expect(readFileSync(join(dir, "b"), "utf8")).toBe("content");
  });
});

test("propagation is what mountinfo says", () => {
  const target = makeDir("m");
  bindMount(target, target);
  const propagation = (): string => mountsUnder(target)[0]?.propagation.join(" ") ?? "gone";
  makePrivate(target);
  expect(propagation()).toBe("");
  makeShared(target);
  expect(propagation()).toMatch(/^shared:\d+$/);
  const peer = makeDir("peer");
  bindMount(target, peer);
  makeDir("m", "x");
  mount({ source: "hearth", target: join(target, "x"), type: "tmpfs" });
  expect(mountsUnder(peer).map((entry) => entry.mountPoint)).toContain(join(peer, "x"));
  makeSlave(peer);
  expect(
    mountsUnder(peer)
      .find((entry) => entry.mountPoint === peer)
      ?.propagation.join(" "),
  ).toMatch(/^master:\d+$/);
});

describe("unmountTree", () => {
  test("takes nested, covered and propagated mounts away, and nothing beside them", () => {
    const tree = makeDir("tree");
    const beside = makeDir("tree-beside");
    mount({ source: "beside", target: beside, type: "tmpfs" });
    mount({ source: "one", target: tree, type: "tmpfs" });
    mkdirSync(join(tree, "in"));
    mount({ source: "two", target: join(tree, "in"), type: "tmpfs" });
    mount({ source: "three", target: join(tree, "in"), type: "tmpfs" });
    expect(mountsUnder(tree).map((entry) => entry.source)).toEqual(["three", "two", "one"]);
    expect(unmountTree(tree)).toBe(3);
    expect(mountsUnder(tree)).toEqual([]);
    expect(listMounts().some((entry) => entry.mountPoint === beside)).toBe(true);
  });
});

describe("removeTreeWithoutMounts", () => {
  test("removes files, directories, links and odd names; follows no link", () => {
    const outside = makeDir("outside");
    writeFileSync(join(outside, "precious"), "x");
    const tree = makeDir("tree");
    makeDir("tree", "a", "b", "c");
    writeFileSync(join(tree, "a", "f"), "x");
    symlinkSync(outside, join(tree, "link"));
    symlinkSync("/nowhere", join(tree, "a", "dangling"));
    writeFileSync(Buffer.concat([Buffer.from(`${tree}/bad`), Buffer.from([0xff, 0xfe])]), "x");
    removeTreeWithoutMounts(tree);
    expect(existsSync(tree)).toBe(false);
    expect(existsSync(join(outside, "precious"))).toBe(true);
    removeTreeWithoutMounts(tree);
    removeTreeWithoutMounts(join(dir, "no", "parent"));
  });

  test("removes a link that is given as the tree, not what it points to", () => {
    const outside = makeDir("outside");
    writeFileSync(join(outside, "precious"), "x");
    symlinkSync(outside, join(dir, "link"));
    removeTreeWithoutMounts(join(dir, "link"));
    expect(existsSync(join(dir, "link"))).toBe(false);
    expect(existsSync(join(outside, "precious"))).toBe(true);
  });

  test.each(["directory", "file", "the tree itself"])(
    "refuses a tree with a mount (%s) and leaves it whole",
    (kind) => {
      const outside = makeDir("outside");
      writeFileSync(join(outside, "precious"), "x");
      const tree = makeDir("tree");
      writeFileSync(join(tree, "a"), "x");
      mkdirSync(join(tree, "z"));
      if (kind === "directory") bindMount(outside, join(tree, "z"));
      else if (kind === "file") bindMount(join(outside, "precious"), join(tree, "a"));
      else bindMount(outside, tree);
      expect(() => removeTreeWithoutMounts(tree)).toThrow("is mounted");
      unmountTree(tree);
      expect(existsSync(join(outside, "precious"))).toBe(true);
      expect(readdirSync(tree).sort()).toEqual(["a", "z"]);
    },
  );
});
