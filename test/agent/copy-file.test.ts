/** CopyFile on a real directory: pieces, kinds of files, and paths that lead elsewhere. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { copyFile } from "../../src/agent/guest/copy-file.ts";
import { CopyFileRequestSchema } from "../../src/gen/agent_pb.ts";
import { agentPaths } from "../../src/paths.ts";

type Init = Parameters<typeof create<typeof CopyFileRequestSchema>>[1];

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "hearth-copy-"));
  mkdirSync(join(dir, "run"));
});
afterEach(() => {
  rmSync(dir, { recursive: true, force: true });
});

function copy(path: string, init: Init = {}): void {
  const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  copyFile(
    create(CopyFileRequestSchema, { path, fileMode: 0o100640, ...owner, ...init }),
    agentPaths(join(dir, "run")),
  );
}

describe("files", () => {
  test("appear when they are complete, with their mode, in directories that are made", () => {
    const path = join(dir, "run/a/b/file");
    copy(path, { fileSize: 6n, offset: 0n, data: Buffer.from("abc"), dirMode: 0o750 });
    expect(readdirSync(join(dir, "run/a/b"))).toEqual([".file.copy"]);
    copy(path, { fileSize: 6n, offset: 3n, data: Buffer.from("def") });
    expect(readFileSync(path, "utf8")).toBe("abcdef");
    expect(statSync(path).mode & 0o7777).toBe(0o640);
    expect(statSync(join(dir, "run/a")).mode & 0o7777).toBe(0o750);
    expect(readdirSync(join(dir, "run/a/b"))).toEqual(["file"]);
  });

  test("replace an old one, and may be empty", () => {
    const path = join(dir, "run/file");
    copy(path, { fileSize: 3n, data: Buffer.from("old") });
    copy(path, { fileSize: 0n });
    expect(readFileSync(path, "utf8")).toBe("");
  });

  test("directories and symbolic links", () => {
    copy(join(dir, "run/d"), { fileMode: 0o040711 });
    expect(statSync(join(dir, "run/d")).mode & 0o7777).toBe(0o711);
    for (const target of ["x", "../elsewhere"]) {
      copy(join(dir, "run/l"), { fileMode: 0o120777, data: Buffer.from(target) });
      expect(readlinkSync(join(dir, "run/l"))).toBe(target);
    }
  });

  test("a piece outside of the file is refused", () => {
    const piece = { fileSize: 3n, offset: 2n, data: Buffer.from("ab") };
    expect(() => copy(join(dir, "run/file"), piece)).toThrow("piece from 2 to 4 of a file of 3 bytes");
    expect(() => copy(join(dir, "run/file"), { ...piece, offset: -1n })).toThrow("piece from -1");
  });
});

describe("paths that are refused", () => {
  test.each(["run/../x", "x", "run", "run/", "running/x", "run/a/../../x", "run/a/../b"])("%s", (path) => {
    expect(() => copy(`${dir}/${path}`, { fileSize: 0n })).toThrow("not below");
  });

  test("through a symbolic link", () => {
    mkdirSync(join(dir, "outside"));
    symlinkSync(join(dir, "outside"), join(dir, "run/link"));
    expect(() => copy(join(dir, "run/link/x"), { fileSize: 0n })).toThrow("is not a directory");
    expect(readdirSync(join(dir, "outside"))).toEqual([]);
  });

  test("over a symbolic link: the link is replaced, what it names is untouched", () => {
    const outside = join(dir, "outside");
    symlinkSync(outside, join(dir, "run/file"));
    symlinkSync(outside, join(dir, "run/.other.copy"));
    copy(join(dir, "run/file"), { fileSize: 1n, data: Buffer.from("x") });
    expect(() => copy(join(dir, "run/other"), { fileSize: 1n, data: Buffer.from("x") })).toThrow("ELOOP");
    expect(statSync(outside, { throwIfNoEntry: false })).toBeUndefined();
  });
});
