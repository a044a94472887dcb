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

/** A page of zeros, readable and writable. */
export function mapPage(): Pointer {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS;
  const at = libc().mmap(null, BigInt(PAGE_BYTES), PROT_READ | PROT_WRITE, flags, -1, 0n);
  if (typeof at !== "number") throw new HearthError("internal", "map page");
  // MAP_FAILED is (void *)-1, which no longer is an exact number.
  if (at > Number.MAX_SAFE_INTEGER || at < 0) throw new SystemError(lastErrno(), "map page");
  return at;
}

/** A page that begins with `code`, position independent and at most PAGE_BYTES, and can be executed. */
export function mapCode(code: Uint8Array): Pointer {
  const page = mapPage();
  new Uint8Array(toArrayBuffer(page, 0, PAGE_BYTES)).set(code);
  check(libc().mprotect(page, BigInt(PAGE_BYTES), PROT_READ | PROT_EXEC), "make page executable");
  return page;
}
