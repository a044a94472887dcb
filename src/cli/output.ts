/** A command's result on standard output, whole: a pipe that does not take it at once is waited for. */
import { writeSync } from "node:fs";
import { isErrnoException, toHearthError } from "../errors.ts";

/** Resolves when all of `text` was taken. A reader that has gone is an "unavailable" error. */
export async function writeOut(text: string): Promise<void> {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(1, bytes, at, bytes.length - at);
    } catch (thrown) {
      if (!isErrnoException(thrown) || thrown.code !== "EAGAIN") throw toHearthError(thrown, "write standard output");
      // Somebody made the pipe non-blocking, and it is full.
      await writeWhenReady(bytes.subarray(at));
      return;
    }
  }
}

async function writeWhenReady(bytes: Uint8Array): Promise<void> {
  const { asFd, dup } = await import("../sys/fd.ts");
  const { FdWriter } = await import("../sys/fd-writer.ts");
  using writer = new FdWriter(dup(asFd(1)));
  await writer.write(bytes);
}

/** Columns padded to their widest cell, as a table for people. */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, index) => {
      widths[index] = Math.max(widths[index] ?? 0, cell.length);
    });
  }
  const line = (row: readonly string[]): string =>
    row.map((cell, index) => (index === row.length - 1 ? cell : cell.padEnd(widths[index] ?? 0))).join("   ");
  return rows.map((row) => `${line(row).trimEnd()}\n`).join("");
}
