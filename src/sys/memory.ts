/** Memory of other processes: how much it is, and giving back what the page cache holds anyway. */
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { isErrnoException, isNotFound, toHearthError } from "../errors.ts";
import { check, lazyLibc } from "./libc.ts";
import { openPidfd, type ProcessIdentity } from "./process-identity.ts";

const libc = lazyLibc({ syscall: { args: ["i64", "i64", "ptr", "i64", "i64", "i64"], returns: "i64" } });
/** Source: asm/unistd_64.h, asm-generic/mman-common.h. */
const SYS_PROCESS_MADVISE = 440n;
const MADV_PAGEOUT = 21n;
/** As far as a crowded process is looked at. */
const PIECES_MAX = 1024;
/** What is paged out in one call: in some 3 ms. */
const PIECE_BYTES_MAX = 4n * 1024n * 1024n;

export interface AddressRange {
  readonly start: bigint;
  readonly length: bigint;
}

/** Mappings of ordinary files in /proc/PID/maps, those of deleted ones (memfd) and of devices left out. Pure. */
export function fileMappings(maps: string): AddressRange[] {
  return maps.split("\n").flatMap((line) => {
    const found = /^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ [1-9]\d*\s+\/(?!dev\/)(.*)$/.exec(line);
    const [, from, to, path] = found ?? [];
    if (from === undefined || to === undefined || path === undefined || path.endsWith(" (deleted)")) return [];
    const start = BigInt(`0x${from}`);
    return [{ start, length: BigInt(`0x${to}`) - start }];
  });
}

/** The ranges in pieces of at most `bytesMax`. Pure. */
export function inPieces(ranges: readonly AddressRange[], bytesMax: bigint): AddressRange[] {
  return ranges.flatMap(({ start, length }) => {
    const pieces: AddressRange[] = [];
    for (let at = 0n; at < length; at += bytesMax) {
      const left = length - at;
      pieces.push({ start: start + at, length: left < bytesMax ? left : bytesMax });
    }
    return pieces;
  });
}

/**
 * Takes the pages that a process has mapped from files out of its memory; those it needs again come from the page cache.
 * Pages that others map too, and changed private ones, stay. Needs Linux 5.10 and CAP_SYS_NICE: ENOSYS or EPERM without.
 * The event loop has its turn after each piece of a mapping, so that a claim does not wait, and nothing more is done once
 * `isWanted` says no.
 */
export async function pageOutFiles(identity: ProcessIdentity, isWanted: () => boolean): Promise<void> {
  using pidfd = openPidfd(identity);
  if (pidfd === undefined) return;
  let maps: string;
  try {
    maps = readFileSync(`/proc/${identity.pid}/maps`, "utf8");
  } catch (thrown) {
    throw toHearthError(thrown, `read mappings of process ${identity.pid}`);
  }
  // A mapping that cannot be advised (locked, special) ends the call early; so each is a call of its own.
  for (const { start, length } of inPieces(fileMappings(maps), PIECE_BYTES_MAX).slice(0, PIECES_MAX)) {
    if (!isWanted()) return;
    const iovec = BigUint64Array.of(start, length);
    const result = Number(libc().syscall(SYS_PROCESS_MADVISE, BigInt(pidfd.fd), iovec, 1n, MADV_PAGEOUT, 0n));
    check(result, `page out files of process ${identity.pid}`);
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

/**
 * Proportional set size of a process in bytes: what it shares counts by the number of those who share it. 0 when it is
 * gone. The kernel walks its page tables for that: milliseconds for a large one, off the event loop.
 */
export async function proportionalSetBytes(pid: number): Promise<number> {
  try {
    const rollup = await readFile(`/proc/${pid}/smaps_rollup`, "utf8");
    return Number(/^Pss:\s+(\d+) kB$/m.exec(rollup)?.[1] ?? 0) * 1024;
  } catch (thrown) {
    if (isNotFound(thrown) || (isErrnoException(thrown) && thrown.code === "ESRCH")) return 0;
    throw toHearthError(thrown, `read memory of process ${pid}`);
  }
}
