import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLog } from "../../log.ts";
import { hidesPasswd, withHome } from "./home.ts";

let root = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "hearth-home-"));
  mkdirSync(join(root, "etc"));
});
afterEach(() => {
  rmSync(root, { recursive: true });
});

const homeOf = (uid: number, env: readonly string[] = ["A=1"]): unknown =>
  withHome({ env, user: { uid } }, root, silentLog)["env"];

test("a user whom passwd does not know is at home in the root; the others are crun's", () => {
  writeFileSync(join(root, "etc/passwd"), "root:x:0:0::/root:/bin/sh\n# 7\nfive:x:5:5::/five:/bin/sh");
  expect(homeOf(7)).toEqual(["A=1", "HOME=/"]);
  expect(homeOf(0)).toEqual(["A=1"]);
  expect(homeOf(5)).toEqual(["A=1"]);
  expect(homeOf(7, ["HOME=/own"])).toEqual(["HOME=/own"]);
  expect(homeOf(7, ["HOME=", "HOME=/own"])).toEqual(["HOME=", "HOME=/own"]);
});

test("an empty HOME is none", () => {
  writeFileSync(join(root, "etc/passwd"), "root:x:0:0::/root:/bin/sh");
  expect(homeOf(7, ["HOME=", "A=1"])).toEqual(["A=1", "HOME=/"]);
  expect(homeOf(0, ["HOME=/own", "A=1", "HOME="])).toEqual(["A=1"]);
});

test("without a passwd that is a file crun decides", () => {
  expect(homeOf(7)).toEqual(["A=1"]);
  mkdirSync(join(root, "etc/passwd"));
  expect(homeOf(7)).toEqual(["A=1"]);
  rmSync(join(root, "etc"), { recursive: true });
  expect(homeOf(7)).toEqual(["A=1"]);
});

test("links are the container's, absolute ones too, and lead nowhere outside", () => {
  mkdirSync(join(root, "usr"));
  writeFileSync(join(root, "usr/passwd"), "five:x:5:5::/five:/bin/sh\n");
  for (const target of ["/usr/passwd", "../../../../usr/passwd"]) {
    symlinkSync(target, join(root, "etc/passwd"));
    expect(homeOf(0)).toEqual(["A=1", "HOME=/"]);
    expect(homeOf(5)).toEqual(["A=1"]);
    rmSync(join(root, "etc/passwd"));
  }
  symlinkSync("/etc/passwd", join(root, "etc/passwd"));
  expect(homeOf(7)).toEqual(["A=1"]);
});

test.each([
  ["/etc/passwd", true],
  ["/etc", true],
  ["/", true],
  ["/etc/hosts", false],
  ["/etc/passwd2", false],
  ["/srv/etc", false],
])("a mount at %s hides the passwd of the root: %p", (destination, hides) => {
  expect(hidesPasswd([{ destination }])).toBe(hides);
});
