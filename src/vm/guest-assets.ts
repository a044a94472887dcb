/** Puts the guest's kernel, initrd and image on disk, once per digest, and makes sure that they are what they should be. */

import { createHash } from "node:crypto";
import { once } from "node:events";
import {
  type BigIntStats,
  chmodSync,
  closeSync,
  createReadStream,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { createZstdDecompress } from "node:zlib";
import * as v from "valibot";
import { HearthError, isNotFound, toHearthError } from "../errors.ts";
import { GUEST_UNPACK_TIMEOUT_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import { GUEST_FILES, guestLock, guestPaths } from "../paths.ts";
import { readJson, syncDirectory, writeJsonAtomic } from "../sys/atomic-file.ts";
import { lock } from "../sys/lock.ts";
import type { GuestFile } from "./guest-manifest.ts";
import { type GuestSource, guestSource, type PackedGuest } from "./guest-source.ts";

export interface GuestAssets {
  /** Absolute paths. */
  readonly kernel: string;
  readonly initrd: string;
  readonly image: string;
  /** Hex SHA-256 over the three files. */
  readonly digest: string;
  /** As `uname -r` says inside the guest. */
  readonly kernelVersion: string;
}

/**
 * The guest's files below `<dataDir>/guest/<digest>`, unpacked by the first caller while others wait; what is damaged,
 * half-written or missing there is replaced. Files are read in full only when they changed since they were last checked.
 * Run from source, the files of the build are returned as they are.
 * Errors: "not-found" when this program carries no guest; SystemError when the directory cannot be written.
 */
export async function ensureGuestAssets(
  dataDir: string,
  log: Log,
  source: GuestSource | undefined = guestSource(),
): Promise<GuestAssets> {
  if (source === undefined) {
    throw new HearthError("not-found", "find the guest: this hearth carries none", {
      hint: "set kernel and image in [hypervisor.qemu]",
    });
  }
  const { digest, kernelVersion, files } = source.manifest;
  if (source.kind === "built") {
    const at = (name: string): string => join(source.dir, name);
    const { kernel, initrd, image } = GUEST_FILES;
    return { kernel: at(kernel), initrd: at(initrd), image: at(image), digest, kernelVersion };
  }
  const paths = guestPaths(dataDir, digest);
  if (!isVerified(paths.dir, paths.verified, files)) await repair(dataDir, source, log);
  return { kernel: paths.kernel, initrd: paths.initrd, image: paths.image, digest, kernelVersion };
}

/** Under the lock: brings every file to what the manifest says, then notes that they were checked. */
async function repair(dataDir: string, source: PackedGuest, log: Log): Promise<void> {
  const { digest, files } = source.manifest;
  const paths = guestPaths(dataDir, digest);
  makeDirectory(paths.dir);
  await using _held = await lock(guestLock(dataDir), { timeoutMs: GUEST_UNPACK_TIMEOUT_MS });
  // Somebody else may have done it while we waited.
  if (isVerified(paths.dir, paths.verified, files)) return;
  removeLeftovers(paths.dir);
  const started = performance.now();
  const replaced: string[] = [];
  for (const file of files) {
    const path = join(paths.dir, file.name);
    if (await matches(path, file)) continue;
    await unpack(source, file, path);
    replaced.push(file.name);
  }
  syncDirectory(paths.dir);
  const noted = Object.fromEntries(files.map(({ name }) => [name, identityOf(join(paths.dir, name))]));
  writeJsonAtomic(paths.verified, { version: 1, files: noted }, { durable: true });
  log.info(replaced.length === 0 ? "guest verified" : "guest unpacked", {
    dir: paths.dir,
    files: replaced.join(" "),
    ms: Math.round(performance.now() - started),
  });
}

/** Readable for a QEMU that gave up root; writable for us alone. */
function makeDirectory(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o755 });
  } catch (thrown) {
    throw toHearthError(thrown, `create ${dir}`);
  }
  for (const path of [dirname(dir), dir]) {
    if (!isOurs(statSync(path))) {
      throw new HearthError("permission-denied", `use ${path}: others than its owner may write there`, {
        hint: `chown it to the user that runs hearth, and chmod go-w ${path}`,
      });
    }
  }
}

function isOurs(stats: { readonly uid: number; readonly mode: number }): boolean {
  return stats.uid === process.geteuid?.() && (stats.mode & 0o022) === 0;
}

/** Temporary files of an unpacking that was killed. Nobody else writes here while we hold the lock. */
function removeLeftovers(dir: string): void {
  for (const name of readdirSync(dir)) {
    if (name.endsWith(TEMPORARY_SUFFIX)) rmSync(join(dir, name), { force: true });
  }
}

const TEMPORARY_SUFFIX = ".tmp";

async function unpack(source: PackedGuest, file: GuestFile, path: string): Promise<void> {
  const temporary = `${path}${TEMPORARY_SUFFIX}`;
  try {
    const fd = openSync(temporary, "w", 0o644);
    try {
      const digest = await decompressInto(Bun.file(join(source.dir, `${file.name}.zst`)), fd);
      if (digest !== file.sha256) {
        throw new HearthError("internal", `unpack ${file.name}: this executable is damaged`, {
          facts: { expected: file.sha256, found: digest },
          hint: "install hearth again",
        });
      }
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    // Whatever the umask was: QEMU may read it under another user.
    chmodSync(temporary, 0o644);
    renameSync(temporary, path);
  } catch (thrown) {
    rmSync(temporary, { force: true });
    throw toHearthError(thrown, `unpack ${path}`);
  }
}

/** Hex SHA-256 of what was written. */
async function decompressInto(packed: Blob, fd: number): Promise<string> {
  const decompressor = createZstdDecompress({ chunkSize: CHUNK_BYTES });
  const hash = createHash("sha256");
  const feed = async (): Promise<void> => {
    for await (const chunk of packed.stream()) {
      if (!decompressor.write(chunk)) await once(decompressor, "drain");
    }
    decompressor.end();
  };
  const fed = feed().catch((thrown: unknown) => {
    decompressor.destroy(thrown instanceof Error ? thrown : new Error(String(thrown)));
  });
  for await (const chunk of decompressor) {
    const bytes: Uint8Array = chunk;
    hash.update(bytes);
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at);
  }
  await fed;
  return hash.digest("hex");
}

/** Bytes decompressed at a time: few calls, little memory. */
const CHUNK_BYTES = 1024 * 1024;

/** True when the file is there with the size and digest of the manifest. */
async function matches(path: string, file: GuestFile): Promise<boolean> {
  try {
    const stats = statSync(path);
    if (!stats.isFile() || !isOurs(stats) || stats.size !== file.size) return false;
    const hash = createHash("sha256");
    for await (const chunk of createReadStream(path, { highWaterMark: CHUNK_BYTES })) hash.update(chunk);
    return hash.digest("hex") === file.sha256;
  } catch (thrown) {
    if (isNotFound(thrown)) return false;
    throw toHearthError(thrown, `check ${path}`);
  }
}

const VerifiedSchema = v.object({ version: v.literal(1), files: v.record(v.string(), v.string()) });

/** What any change of a file's content changes too, in one string: its inode, size and times of last change. */
function identityOf(path: string): string {
  const stats: BigIntStats = statSync(path, { bigint: true });
  return [stats.dev, stats.ino, stats.size, stats.mtimeNs, stats.ctimeNs].join(" ");
}

function isVerified(dir: string, notePath: string, files: readonly GuestFile[]): boolean {
  try {
    if (!isOurs(statSync(dir))) return false;
    const note = v.safeParse(VerifiedSchema, readJson(notePath));
    return note.success && files.every(({ name }) => note.output.files[name] === identityOf(join(dir, name)));
  } catch (thrown) {
    if (isNotFound(thrown)) return false;
    // An unreadable note is no note; what is really wrong shows when it is written again.
    if (thrown instanceof HearthError && thrown.code === "invalid-argument") return false;
    throw toHearthError(thrown, `check ${dir}`);
  }
}
