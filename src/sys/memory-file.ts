/** Anonymous memory as a file that no directory names: an empty one, or a copy of another file's content. */
import { fstatSync } from "node:fs";
import { SystemError } from "../errors.ts";
import { asFd, O_RDONLY, OwnedFd, openFd } from "./fd.ts";
import { check, cString, lastErrno, lazyLibc } from "./libc.ts";

const libc = lazyLibc({
  memfd_create: { args: ["ptr", "u32"], returns: "i32" },
  ftruncate: { args: ["i32", "i64"], returns: "i32" },
  lseek: { args: ["i32", "i64", "i32"], returns: "i64" },
  sendfile: { args: ["i32", "i32", "ptr", "u64"], returns: "i64" },
  mmap: { args: ["ptr", "u64", "i32", "i32", "i32", "i64"], returns: "i64" },
});

/** Source: linux/memfd.h, unistd.h. */
const MFD_CLOEXEC = 1;
const SEEK_SET = 0;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
/** Source: sys/mman.h. */
const PROT_READ = 1;
const MAP_SHARED = 1;
const MAP_POPULATE = 0x8000;
/** Each of so many bytes is mapped again and again: few mappings, and little memory. */
const SWELL_BYTES = 16 * 1024 * 1024;

/** An empty file, readable and writable. `name` is for /proc alone. */
export function memoryFile(name: string): OwnedFd {
  return new OwnedFd(asFd(check(libc().memfd_create(cString(name), MFD_CLOEXEC), "make memory file")));
}

/** `name` is for /proc alone. Holes stay holes, so that memory nobody has written to costs nothing. */
export function copyToMemory(path: string, name: string): OwnedFd {
  using source = openFd(path, O_RDONLY);
  const memory = memoryFile(name);
  try {
    const size = BigInt(fstatSync(source.fd).size);
    check(libc().ftruncate(memory.fd, size), "size memory file");
    for (let at = seek(source, 0n, SEEK_DATA); at !== undefined && at < size; at = seek(source, at, SEEK_DATA)) {
      const end = seek(source, at, SEEK_HOLE) ?? size;
      seek(source, at, SEEK_SET);
      seek(memory, at, SEEK_SET);
      while (at < end) {
        const sent = libc().sendfile(memory.fd, source.fd, null, end - at);
        check(Number(sent), `copy ${path} to memory`);
        // Somebody has cut it short.
        if (sent === 0n) throw new SystemError("EIO", `copy ${path} to memory`);
        at += sent;
      }
    }
    return memory;
  } catch (thrown) {
    memory.close();
    throw thrown;
  }
}

/** Undefined where there is nothing of that kind behind `at`. */
function seek(file: OwnedFd, at: bigint, whence: number): bigint | undefined {
  const found = libc().lseek(file.fd, at, whence);
  if (found >= 0n) return found;
  const errno = lastErrno();
  if (errno === "ENXIO") return undefined;
  throw new SystemError(errno, "seek in file");
}

/** Adds at least so many bytes to our resident memory, as the kernel counts it, for some 16 MiB and page tables. For life. */
export function swellResidentMemory(bytes: number): void {
  using memory = memoryFile("swell");
  check(libc().ftruncate(memory.fd, BigInt(SWELL_BYTES)), "size memory file");
  for (let mapped = 0; mapped < bytes; mapped += SWELL_BYTES) {
    const at = libc().mmap(null, BigInt(SWELL_BYTES), PROT_READ, MAP_SHARED | MAP_POPULATE, memory.fd, 0n);
    if (at === -1n) throw new SystemError(lastErrno(), "map memory file");
  }
}
