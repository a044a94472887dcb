import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MIRRORED_BYTES_MAX, MIRRORED_FILES_MAX } from "../limits.ts";
import { isMirrored, readVolume } from "./mirrored-volume.ts";

let dir: string;
let volume: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "hearth-volume-"));
  volume = join(dir, "kubernetes.io~configmap/settings");
  mkdirSync(volume, { recursive: true });
});
afterEach(() => {
  rmSync(dir, { recursive: true, force: true });
});

test("it is read whole, each file after its directory, links as links", () => {
  mkdirSync(join(volume, "..1"), { mode: 0o750 });
  writeFileSync(join(volume, "..1/key"), "value");
  chmodSync(join(volume, "..1/key"), 0o440);
  utimesSync(join(volume, "..1/key"), 1_700_000_000.5, 1_700_000_000.5);
  symlinkSync("..1", join(volume, "..data"));
  const [root, version, key, link, ...more] = readVolume(volume);
  expect(root).toMatchObject({ path: "", mode: 0o040755 });
  expect(version).toMatchObject({ path: "..1", mode: 0o040750 });
  expect(key).toMatchObject({ path: "..1/key", mode: 0o100440, modified: 1_700_000_000_500_000_000n });
  expect(Buffer.from(key?.data ?? []).toString()).toBe("value");
  expect(link).toMatchObject({ path: "..data", mode: 0o120777 });
  expect(Buffer.from(link?.data ?? []).toString()).toBe("..1");
  expect(more).toEqual([]);
});

describe("a copy is made", () => {
  test.each(["configmap", "secret", "projected", "downward-api"])("of a %s", (kind) => {
    const path = join(dir, `kubernetes.io~${kind}/name`);
    mkdirSync(path, { recursive: true });
    expect(isMirrored(path)).toBe(true);
  });

  test("of as much as there is room for", () => {
    writeFileSync(join(volume, "big"), Buffer.alloc(MIRRORED_BYTES_MAX));
    expect(isMirrored(volume)).toBe(true);
  });
});

describe("no copy is made", () => {
  test.each(["other", "kubernetes.io~empty-dir/name", "kubernetes.io~secret", "kubernetes.io~secret/name/below"])(
    "of %s",
    (path) => {
      mkdirSync(join(dir, path), { recursive: true });
      expect(isMirrored(join(dir, path))).toBe(false);
    },
  );

  test("of what is not there", () => {
    expect(isMirrored(join(dir, "kubernetes.io~secret/missing"))).toBe(false);
  });

  test("of too much", () => {
    writeFileSync(join(volume, "big"), Buffer.alloc(MIRRORED_BYTES_MAX));
    writeFileSync(join(volume, "more"), "1");
    expect(isMirrored(volume)).toBe(false);
    expect(() => readVolume(volume)).toThrow(`more than ${MIRRORED_BYTES_MAX} bytes`);
  });

  test("of too many files", () => {
    for (let at = 0; at < MIRRORED_FILES_MAX; at++) writeFileSync(join(volume, String(at)), "");
    expect(isMirrored(volume)).toBe(false);
    expect(() => readVolume(volume)).toThrow(`more than ${MIRRORED_FILES_MAX} files`);
  });

  test("of a socket", async () => {
    using _server = Bun.listen({ unix: join(volume, "s"), socket: { data() {} } });
    expect(isMirrored(volume)).toBe(false);
  });
});
