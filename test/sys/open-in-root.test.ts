import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeInRoot, resolveInRoot } from "../../src/sys/open-in-root.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";

let directory: Scratch;
let root: string;
beforeEach(() => {
  directory = scratch();
  root = directory.path("root");
  mkdirSync(join(root, "real/deep"), { recursive: true });
  writeFileSync(join(root, "file"), "");
  for (const [name, target] of Object.entries({ away: "/../../real", near: "real", loop: "loop", gone: "/no/where" })) {
    symlinkSync(target, join(root, name));
  }
});
afterEach(() => {
  directory[Symbol.dispose]();
});

describe("where a path leads in a root", () => {
  test.each([
    ["/real//deep/./", "/real/deep"],
    ["../../real", "/real"],
    ["/away/deep", "/real/deep"],
    ["near/deep", "/real/deep"],
    ["/near/..", "/"],
    ["/gone/x", "/no/where/x"],
    ["/missing/../x", "/x"],
    ["/file/x", "/file/x"],
  ])("%s", (path, place) => {
    expect(resolveInRoot(root, path, () => false)).toBe(place);
  });

  test("what is hidden is not looked at", () => {
    expect(resolveInRoot(root, "/near/deep", (place) => place === "/")).toBe("/near/deep");
  });

  test("links in a circle", () => {
    expect(() => resolveInRoot(root, "/loop", () => false)).toThrow("ELOOP");
  });
});

const modeOf = (path: string): number => statSync(join(root, path)).mode & 0o7777;

describe("making what is missing", () => {
  test("of directories and of a file, with modes of their own", () => {
    const umask = process.umask(0o077);
    try {
      makeInRoot(root, "/real/a/b", "directory");
      makeInRoot(root, "/c/d", "file");
    } finally {
      process.umask(umask);
    }
    expect(["real/a", "real/a/b", "c", "c/d"].map(modeOf)).toEqual([0o755, 0o755, 0o755, 0o644]);
    expect(statSync(join(root, "c/d")).isFile()).toBe(true);
  });

  test("what is there stays as it is", () => {
    makeInRoot(root, "/file", "directory");
    makeInRoot(root, "/real", "file");
    expect(statSync(join(root, "file")).isFile()).toBe(true);
    expect(statSync(join(root, "real")).isDirectory()).toBe(true);
  });

  test("the end of a path whose kind is not known is left out", () => {
    makeInRoot(root, "/e/f", "unknown");
    expect([existsSync(join(root, "e")), existsSync(join(root, "e/f"))]).toEqual([true, false]);
  });

  test("a link to the outside leads to the inside, and a file in the way is an error", () => {
    makeInRoot(root, "/away/new", "directory");
    expect(existsSync(join(root, "real/new"))).toBe(true);
    expect(() => makeInRoot(root, "/file/x", "directory")).toThrow("make /file/x");
  });
});
