/** Writing a file so that a reader finds the old content or the new, never a part: temporary name, then rename. */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, unlinkSync, writeSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { HearthError, toHearthError } from "../errors.ts";

export interface AtomicWriteOptions {
  /** Permission bits, before the umask. Default 0600. */
  readonly mode?: number;
  /** Flush file and directory to disk, so that the content survives a loss of power. Default false (/run is memory). */
  readonly durable?: boolean;
}

/**
 * Replaces `path` by `content`. The temporary file is made beside it, with O_EXCL, and removed when anything fails.
 * Readers and a crash see the old file or the new one. Two writers at once: the last rename wins, both whole.
 */
export function writeFileAtomic(path: string, content: string | Uint8Array, options: AtomicWriteOptions = {}): void {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}-${crypto.randomUUID().slice(0, 8)}.tmp`);
  try {
    writeNewFile(temporary, bytes, options);
    try {
      renameSync(temporary, path);
    } catch (thrown) {
      unlinkSync(temporary);
      throw thrown;
    }
    if (options.durable === true) syncDirectory(dirname(path));
  } catch (thrown) {
    throw toHearthError(thrown, `write ${path}`);
  }
}

function writeNewFile(path: string, bytes: Uint8Array, options: AtomicWriteOptions): void {
  const fd = openSync(path, "wx", options.mode ?? 0o600);
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at);
    if (options.durable === true) fsyncSync(fd);
  } catch (thrown) {
    unlinkSync(path);
    throw thrown;
  } finally {
    closeSync(fd);
  }
}

/** Flushes the entries of a directory: a rename is on disk only after this. */
export function syncDirectory(dir: string): void {
  const fd = openSync(dir, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** As `writeFileAtomic`, with `value` as indented JSON and a final newline. */
export function writeJsonAtomic(path: string, value: unknown, options: AtomicWriteOptions = {}): void {
  const text = JSON.stringify(value, null, 2);
  if (text === undefined) throw new HearthError("internal", `write ${path}: value has no JSON form`);
  writeFileAtomic(path, `${text}\n`, options);
}

/** The parsed JSON of a file, still foreign data: the caller validates it. A missing file is a "not-found" error. */
export function readJson(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (thrown) {
    throw toHearthError(thrown, `read ${path}`);
  }
  try {
    return JSON.parse(text);
  } catch (thrown) {
    throw toHearthError(thrown, `parse ${path}`, "invalid-argument");
  }
}
