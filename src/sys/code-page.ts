/** Pages of memory outside the JavaScript heap, and machine code in them. They stay for the life of the process. */
import { type Pointer, toArrayBuffer } from "bun:ffi";
import { HearthError, SystemError } from "../errors.ts";
import { check, lastErrno, lazyLibc } from "./libc.ts";

export const PAGE_BYTES = 4096;

/** Source: sys/mman.h. */
const PROT_READ = 1;
const PROT_WRITE = 2;
const PROT_EXEC = 4;
const MAP_PRIVATE = 2;
const MAP_ANONYMOUS = 0x20;

const libc = lazyLibc({
  mmap: { args: ["ptr", "u64", "i32", "i32", "i32", "i64"], returns: "ptr" },
  mprotect: { args: ["ptr", "u64", "i32"], returns: "i32" },
});

export interface MappedPages {
  readonly at: Pointer;
  readonly bytes: Uint8Array;
}

/** Pages of zeros, readable and writable. */
export function mapPages(count: number): MappedPages {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS;
  const length = count * PAGE_BYTES;
  const at = libc().mmap(null, BigInt(length), PROT_READ | PROT_WRITE, flags, -1, 0n);
  if (typeof at !== "number") throw new HearthError("internal", "map page");
  // MAP_FAILED is (void *)-1, which no longer is an exact number.
  if (at > Number.MAX_SAFE_INTEGER || at < 0) throw new SystemError(lastErrno(), "map page");
  return { at, bytes: new Uint8Array(toArrayBuffer(at, 0, length)) };
}

/** A page that begins with `code`, position independent and at most PAGE_BYTES, and can be executed. */
export function mapCode(code: Uint8Array): Pointer {
  const page = mapPages(1);
  page.bytes.set(code);
  makeExecutable(page);
  return page.at;
}

/** Writes what is in the pages once more, and makes them executable. */
export function rewriteCode(pages: MappedPages): void {
  protect(pages, PROT_READ | PROT_WRITE, "make pages writable");
  pages.bytes.set(pages.bytes.slice());
  makeExecutable(pages);
}

function makeExecutable(pages: MappedPages): void {
  protect(pages, PROT_READ | PROT_EXEC, "make pages executable");
}

function protect({ at, bytes }: MappedPages, protection: number, what: string): void {
  check(libc().mprotect(at, BigInt(bytes.length), protection), what);
}
