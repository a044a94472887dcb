/**
 * Calls into glibc: lazy binding of symbols, errno as a name, and packing of strings and structs.
 * Importing this module opens nothing; a set of symbols is bound at its first call (about 0.3 ms).
 * x86_64 Linux with glibc only, as the executable itself.
 */
import { dlopen, type FFIFunction, type Library, ptr, read } from "bun:ffi";
import { type Facts, HearthError, SystemError } from "../errors.ts";

const LIBC = "libc.so.6";

/** errno lives in thread-local storage; its address is asked for at every read because a Worker is another thread. */
const ERRNO_SYMBOLS = { __errno_location: { args: [], returns: "ptr" } } as const;
let errnoLibc: Library<typeof ERRNO_SYMBOLS>["symbols"] | undefined;

/**
 * Symbols of glibc as a function that binds them once, at its first call. errno reading is bound with the first set:
 * bound later, its own dlopen would overwrite the errno that is asked for.
 */
export function lazyLibc<const Fns extends Record<string, FFIFunction>>(symbols: Fns): () => Library<Fns>["symbols"] {
  let bound: Library<Fns>["symbols"] | undefined;
  return () => {
    errnoLibc ??= dlopen(LIBC, ERRNO_SYMBOLS).symbols;
    bound ??= dlopen(LIBC, symbols).symbols;
    return bound;
  };
}

function errnoNumber(): number {
  const at = errnoLibc?.__errno_location();
  if (typeof at !== "number") throw new HearthError("internal", "read errno: no call was made");
  return read.i32(at);
}

/** errno of the last call on this thread, by name; read it before any other call. */
export function lastErrno(): string {
  return errnoName(errnoNumber());
}

/** Linux x86_64 errno names by number from 1; "-" is unused. Source: asm-generic/errno-base.h, asm-generic/errno.h. */
const ERRNO_NAMES = (
  "EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST " +
  "EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM " +
  "ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP - ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG " +
  "EUNATCH ENOCSI EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT - EBFONT ENOSTR ENODATA ETIME ENOSR ENONET " +
  "ENOPKG EREMOTE ENOLINK EADV ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG " +
  "ELIBACC ELIBBAD ELIBSCN ELIBMAX ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE " +
  "EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE " +
  "EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN " +
  "ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EUCLEAN ENOTNAM ENAVAIL " +
  "EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED EOWNERDEAD " +
  "ENOTRECOVERABLE ERFKILL EHWPOISON"
).split(" ");

/** Symbolic name of an errno number: 2 gives "ENOENT"; an unknown number gives "E" and the number. */
export function errnoName(number: number): string {
  const name = ERRNO_NAMES[number - 1];
  return name === undefined || name === "-" ? `E${number}` : name;
}

/** `result` when it is not negative; otherwise a SystemError built from errno. Call it with the call as its argument. */
export function check(result: number, message: string, facts?: Facts): number {
  if (result >= 0) return result;
  throw new SystemError(lastErrno(), message, facts === undefined ? {} : { facts });
}

/** As `check`, for calls that return an error number instead of setting errno (posix_*, pthread_*). */
export function checkReturned(errorNumber: number, message: string, facts?: Facts): void {
  if (errorNumber === 0) return;
  throw new SystemError(errnoName(errorNumber), message, facts === undefined ? {} : { facts });
}

/** The string in UTF-8 with its terminating zero. A string that holds a zero itself is invalid. */
export function cString(text: string): Uint8Array {
  if (text.includes("\0"))
    throw new HearthError("invalid-argument", "pass string to the system: it contains a zero byte");
  return new TextEncoder().encode(`${text}\0`);
}

/** The text before the first zero byte. */
export function fromCString(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/** Address of the bytes as a number that can be stored in a struct. The caller keeps the array alive until the call ends. */
export function addressOf(bytes: Uint8Array): bigint {
  return BigInt(ptr(bytes));
}

/** A zeroed struct with a view for its fields; x86_64 is little-endian. */
export function struct(byteLength: number): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(byteLength);
  return { bytes, view: new DataView(bytes.buffer) };
}
