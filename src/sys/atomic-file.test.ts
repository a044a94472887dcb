import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readJson, writeFileAtomic, writeJsonAtomic } from "./atomic-file.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "hearth-atomic-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

test("writes and replaces, 0600, leaving nothing beside", () => {
  const path = join(dir, "f");
  writeFileAtomic(path, "one");
  const first = statSync(path);
  expect(first.mode & 0o777).toBe(0o600);
  writeFileAtomic(path, new Uint8Array([116, 119, 111]), { durable: true });
  expect(readFileSync(path, "utf8")).toBe("two");
  expect(statSync(path).ino).not.toBe(first.ino);
  expect(readdirSync(dir)).toEqual(["f"]);
});

test("honours the mode", () => {
  writeFileAtomic(join(dir, "f"), "x", { mode: 0o644 });
  expect(statSync(join(dir, "f")).mode & 0o777).toBe(0o644);
});

test("a failure leaves the old file and nothing beside", () => {
  mkdirSync(join(dir, "d", "full"), { recursive: true });
  expect(() => writeFileAtomic(join(dir, "d"), "x")).toThrow(`write ${join(dir, "d")}: EISDIR`);
  expect(readdirSync(dir)).toEqual(["d"]);
  expect(() => writeFileAtomic(join(dir, "no", "f"), "x")).toThrow("ENOENT");
});

test("a reader sees the old content or the new, never a part", () => {
  const path = join(dir, "f");
  const old = "a".repeat(100_000);
  writeFileAtomic(path, old);
  const reader = readFileSync(path, "utf8");
  writeFileAtomic(path, "b".repeat(200_000));
  expect(reader).toBe(old);
  expect(readFileSync(path, "utf8").length).toBe(200_000);
});

test("JSON round trip; a missing file and a broken one are told apart", () => {
  const path = join(dir, "f.json");
  writeJsonAtomic(path, { a: [1, "ü"], b: null });
  expect(readJson(path)).toEqual({ a: [1, "ü"], b: null });
  expect(readFileSync(path, "utf8").endsWith("\n")).toBe(true);
  expect(() => readJson(join(dir, "none"))).toThrow("ENOENT");
  writeFileSync(path, '{"a":');
  expect(() => readJson(path)).toThrow(`parse ${path}`);
  expect(() => writeJsonAtomic(path, undefined)).toThrow("no JSON form");
  expect(existsSync(path)).toBe(true);
});
