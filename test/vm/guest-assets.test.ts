import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { HearthError } from "../../src/errors.ts";
import { type Log, silentLog } from "../../src/log.ts";
import { GUEST_FILES, guestPaths } from "../../src/paths.ts";
import { runProcess } from "../../src/sys/run-process.ts";
import { ensureGuestAssets } from "../../src/vm/guest-assets.ts";
import { packGuest } from "../harness/packed-guest.ts";
import { rejection } from "../harness/rejection.ts";
import { scratch } from "../harness/scratch.ts";

/** Which files were unpacked, in order of the calls. */
function recordingLog(): { readonly log: Log; readonly unpacked: string[] } {
  const unpacked: string[] = [];
  const log: Log = { ...silentLog, info: (_event, fields) => unpacked.push(String(fields?.["files"])) };
  return { log, unpacked };
}

const EVERY_FILE = Object.values(GUEST_FILES).join(" ");

test("unpacks every file once, under its digest", async () => {
  using dir = scratch();
  const guest = packGuest(dir.path("packed"), 1);
  const { log, unpacked } = recordingLog();
  const assets = await ensureGuestAssets(dir.path("data"), log, guest);
  expect(assets).toMatchObject({ digest: guest.manifest.digest, kernelVersion: "0.0.1" });
  expect(assets.kernel).toBe(join(dir.path("data"), "guest", guest.manifest.digest, "vmlinux"));
  for (const [role, name] of Object.entries(GUEST_FILES)) {
    const path = role === "kernel" ? assets.kernel : role === "initrd" ? assets.initrd : assets.image;
    expect(readFileSync(path).equals(guest.contents.get(name) ?? Buffer.alloc(0))).toBe(true);
    // Under whatever umask: a QEMU without privileges opens it.
    expect(statSync(path).mode & 0o777).toBe(0o644);
  }
  expect(await ensureGuestAssets(dir.path("data"), log, guest)).toEqual(assets);
  expect(unpacked).toEqual([EVERY_FILE]);
});

test("another digest stands beside it", async () => {
  using dir = scratch();
  const first = await ensureGuestAssets(dir.path("data"), silentLog, packGuest(dir.path("a"), 1));
  const second = await ensureGuestAssets(dir.path("data"), silentLog, packGuest(dir.path("b"), 2));
  expect(second.digest).not.toBe(first.digest);
  expect(existsSync(first.kernel) && existsSync(second.kernel)).toBe(true);
});

describe("replaces what is damaged", () => {
  const damages: readonly (readonly [string, string, (dir: string) => void])[] = [
    ["a file cut short", "vmlinux", (dir) => truncateSync(join(dir, "vmlinux"), 1000)],
    ["an empty file", "rootfs.erofs", (dir) => truncateSync(join(dir, "rootfs.erofs"), 0)],
    ["a file that is gone", "initrd.cpio", (dir) => rmSync(join(dir, "initrd.cpio"))],
    [
      "one changed byte, size and time of change kept",
      "vmlinux",
      (dir) => {
        const path = join(dir, "vmlinux");
        const { atime, mtime } = statSync(path);
        const bytes = readFileSync(path);
        bytes[1_500_000] = (bytes[1_500_000] ?? 0) ^ 1;
        writeFileSync(path, bytes);
        utimesSync(path, atime, mtime);
      },
    ],
    ["a file that others may write", "vmlinux", (dir) => chmodSync(join(dir, "vmlinux"), 0o666)],
  ];
  test.each(damages)("%s", async (_what, name, damage) => {
    using dir = scratch();
    const guest = packGuest(dir.path("packed"), 1);
    const { log, unpacked } = recordingLog();
    await ensureGuestAssets(dir.path("data"), log, guest);
    const paths = guestPaths(dir.path("data"), guest.manifest.digest);
    damage(paths.dir);
    await ensureGuestAssets(dir.path("data"), log, guest);
    expect(unpacked).toEqual([EVERY_FILE, name]);
    expect(readFileSync(join(paths.dir, name)).equals(guest.contents.get(name) ?? Buffer.alloc(0))).toBe(true);
  });

  test.each([
    ["missing", (path: string) => rmSync(path)],
    ["no JSON", (path: string) => writeFileSync(path, "{")],
    ["of another version", (path: string) => writeFileSync(path, '{"version":2,"files":{}}')],
    ["empty", (path: string) => writeFileSync(path, "")],
  ] as const)("a note of verification that is %s costs a check, not an unpacking", async (_what, damage) => {
    using dir = scratch();
    const guest = packGuest(dir.path("packed"), 1);
    const { log, unpacked } = recordingLog();
    await ensureGuestAssets(dir.path("data"), log, guest);
    const paths = guestPaths(dir.path("data"), guest.manifest.digest);
    damage(paths.verified);
    await ensureGuestAssets(dir.path("data"), log, guest);
    expect(unpacked).toEqual([EVERY_FILE, ""]);
    expect(JSON.parse(readFileSync(paths.verified, "utf8"))).toMatchObject({ version: 1 });
  });

  test("what a killed unpacking left", async () => {
    using dir = scratch();
    const guest = packGuest(dir.path("packed"), 1);
    const paths = guestPaths(dir.path("data"), guest.manifest.digest);
    mkdirSync(paths.dir, { recursive: true });
    writeFileSync(join(paths.dir, "vmlinux.tmp"), "half of it");
    writeFileSync(paths.initrd, "of an old, interrupted copy");
    await ensureGuestAssets(dir.path("data"), silentLog, guest);
    expect(readdirSync(paths.dir).sort()).toEqual([...Object.values(GUEST_FILES), "verified.json"].sort());
    expect(readFileSync(paths.initrd).equals(guest.contents.get("initrd.cpio") ?? Buffer.alloc(0))).toBe(true);
  });
});

test("a damaged executable is an error and leaves nothing under the files' names", async () => {
  using dir = scratch();
  const guest = packGuest(dir.path("packed"), 1);
  const other = packGuest(dir.path("other"), 2);
  writeFileSync(join(guest.dir, "vmlinux.zst"), readFileSync(join(other.dir, "vmlinux.zst")));
  const thrown = await rejection(ensureGuestAssets(dir.path("data"), silentLog, guest));
  expect(thrown).toBeInstanceOf(HearthError);
  expect(String(thrown)).toContain("this executable is damaged");
  writeFileSync(join(guest.dir, "vmlinux.zst"), "not zstd at all");
  expect(await rejection(ensureGuestAssets(dir.path("data"), silentLog, guest))).toBeInstanceOf(HearthError);
  expect(readdirSync(guestPaths(dir.path("data"), guest.manifest.digest).dir)).toEqual([]);
});

test("a directory that others may write is refused", async () => {
  using dir = scratch();
  const guest = packGuest(dir.path("packed"), 1);
  await ensureGuestAssets(dir.path("data"), silentLog, guest);
  chmodSync(guestPaths(dir.path("data"), guest.manifest.digest).dir, 0o777);
  const thrown = await rejection(ensureGuestAssets(dir.path("data"), silentLog, guest));
  expect(thrown).toHaveProperty("code", "permission-denied");
});

test("eight processes at once unpack once, and every one of them finds whole files", async () => {
  using dir = scratch();
  const guest = packGuest(dir.path("packed"), 1);
  const program = join(import.meta.dir, "../fixtures/unpack-guest.ts");
  const argv = [process.execPath, program, guest.dir, dir.path("data")] as const;
  const runs = await Promise.all(Array.from({ length: 8 }, () => runProcess([...argv], {})));
  expect(
    runs
      .map((run) => run.stderr.toString())
      .join("")
      .split("\n")
      .filter((line) => line !== ""),
  ).toHaveLength(1);
  const { kernel } = guestPaths(dir.path("data"), guest.manifest.digest);
  expect(runs.map((run) => run.stdout.toString())).toEqual(Array.from({ length: 8 }, () => `${kernel}\n`));
  expect(readFileSync(kernel).equals(guest.contents.get("vmlinux") ?? Buffer.alloc(0))).toBe(true);
});

test("finding everything in place takes at most 2 ms, median of 30", async () => {
  using dir = scratch();
  const guest = packGuest(dir.path("packed"), 1);
  await ensureGuestAssets(dir.path("data"), silentLog, guest);
  const times: number[] = [];
  for (let round = 0; round < 30; round++) {
    const started = performance.now();
    await ensureGuestAssets(dir.path("data"), silentLog, guest);
    times.push(performance.now() - started);
  }
  expect(times.sort((a, b) => a - b)[15] ?? Number.POSITIVE_INFINITY).toBeLessThan(2);
});
