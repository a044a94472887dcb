import { expect, test } from "bun:test";
import { HearthError } from "../src/errors.ts";
import { runText } from "./command.ts";
import { type CpioEntry, writeCpio } from "./cpio.ts";

const ENTRIES: readonly CpioEntry[] = [
  { type: "directory", path: "dev" },
  { type: "char-device", path: "dev/null", mode: 0o666, major: 1, minor: 3 },
  { type: "file", path: "init", mode: 0o755, data: new TextEncoder().encode("#!/bin/sh\n") },
  { type: "symlink", path: "sh", target: "init" },
  { type: "file", path: "empty", data: new Uint8Array() },
];

test("busybox lists what was written, with types, modes and owner", async () => {
  const listing = await runText(["busybox", "cpio", "-t", "-v"], { input: writeCpio(ENTRIES) });
  const rows = listing.split("\n").filter((line) => line !== "");
  expect(
    rows.map((row) => [row.slice(0, 10), row.split(/\s+/)[1], row.split(/\d\d:\d\d:\d\d\s+|\d\d:\d\d\s+/).at(-1)]),
  ).toEqual([
    ["drwxr-xr-x", "0/0", "dev"],
    ["crw-rw-rw-", "0/0", "dev/null"],
    ["-rwxr-xr-x", "0/0", "init"],
    ["lrwxrwxrwx", "0/0", "sh -> init"],
    ["-rw-r--r--", "0/0", "empty"],
  ]);
});

test("the same entries give the same bytes, and every record is aligned", () => {
  const archive = writeCpio(ENTRIES);
  expect(writeCpio(ENTRIES)).toEqual(archive);
  expect(archive.length % 512).toBe(0);
});

test.each(["", "/init"])("refuses path %p", (path) => {
  expect(() => writeCpio([{ type: "directory", path }])).toThrow(HearthError);
});
