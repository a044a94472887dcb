/** Writes initramfs archives (cpio "newc") whose bytes depend on nothing but the entries given. */
import { HearthError } from "../src/errors.ts";
import { alignUp } from "./elf.ts";

// Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
const MAGIC = "070701";
const TRAILER = "TRAILER!!!";
const MODE_DIRECTORY = 0o040000;
const MODE_FILE = 0o100000;
const MODE_SYMLINK = 0o120000;
const MODE_CHAR_DEVICE = 0o020000;

export type CpioEntry =
  | { readonly type: "directory"; readonly path: string; readonly mode?: number }
  | { readonly type: "file"; readonly path: string; readonly data: Uint8Array; readonly mode?: number }
  | { readonly type: "symlink"; readonly path: string; readonly target: string }
  | {
      readonly type: "char-device";
      readonly path: string;
      readonly mode: number;
      readonly major: number;
      readonly minor: number;
    };

/** Paths are relative, without leading "./"; a directory has to come before what is in it. Everything belongs to root. */
export function writeCpio(entries: readonly CpioEntry[]): Uint8Array<ArrayBuffer> {
  const chunks: Uint8Array[] = [];
  entries.forEach((entry, index) => {
    if (entry.path === "" || entry.path.startsWith("/")) {
      throw new HearthError("invalid-argument", `write cpio entry ${entry.path}: path is not relative`);
    }
    chunks.push(...encodeEntry(entry, index + 1));
  });
  chunks.push(...record({ path: TRAILER, inode: 0, mode: 0, data: new Uint8Array(), major: 0, minor: 0 }));
  const archive = new Uint8Array(
    alignUp(
      chunks.reduce((sum, chunk) => sum + chunk.length, 0),
      512,
    ),
  );
  let at = 0;
  for (const chunk of chunks) {
    archive.set(chunk, at);
    at += chunk.length;
  }
  return archive;
}

function encodeEntry(entry: CpioEntry, inode: number): Uint8Array[] {
  const base = { path: entry.path, inode, data: new Uint8Array(), major: 0, minor: 0 };
  switch (entry.type) {
    case "directory":
      return record({ ...base, mode: MODE_DIRECTORY | (entry.mode ?? 0o755) });
    case "file":
      return record({ ...base, mode: MODE_FILE | (entry.mode ?? 0o644), data: entry.data });
    case "symlink":
      return record({ ...base, mode: MODE_SYMLINK | 0o777, data: new TextEncoder().encode(entry.target) });
    case "char-device":
      return record({ ...base, mode: MODE_CHAR_DEVICE | entry.mode, major: entry.major, minor: entry.minor });
  }
}

interface CpioRecord {
  readonly path: string;
  readonly inode: number;
  readonly mode: number;
  readonly data: Uint8Array;
  readonly major: number;
  readonly minor: number;
}

function record(entry: CpioRecord): Uint8Array[] {
  const name = new TextEncoder().encode(`${entry.path}\0`);
  // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name length, check sum
  const fields = [
    entry.inode,
    entry.mode,
    0,
    0,
    1,
    0,
    entry.data.length,
    0,
    0,
    entry.major,
    entry.minor,
    name.length,
    0,
  ];
  const header = MAGIC + fields.map((field) => field.toString(16).padStart(8, "0")).join("");
  const head = new Uint8Array(alignUp(header.length + name.length, 4));
  head.set(new TextEncoder().encode(header), 0);
  head.set(name, header.length);
  const padding = new Uint8Array(alignUp(entry.data.length, 4) - entry.data.length);
  return [head, entry.data, padding];
}
