/** Capabilities of children that take on another user's ids for a moment. */
import { SystemError } from "../errors.ts";
import { check, lastErrno, lazyLibc } from "./libc.ts";

/** Source: linux/prctl.h, linux/securebits.h. */
const PR_GET_SECUREBITS = 27;
const PR_SET_SECUREBITS = 28;
const SECBIT_NO_SETUID_FIXUP = 4;

const libc = lazyLibc({ prctl: { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" } });

/**
 * Runs `step`, which must be synchronous; a child it starts keeps its effective capabilities when it sets its user id from
 * 0 to another, and so do that one's children. Where it is not permitted (without CAP_SETPCAP) the child is as any other.
 */
export function keepingCapabilities<T>(step: () => T): T {
  const before = check(libc().prctl(PR_GET_SECUREBITS, 0n, 0n, 0n, 0n), "get secure bits");
  if (!setSecureBits(before | SECBIT_NO_SETUID_FIXUP)) return step();
  try {
    return step();
  } finally {
    setSecureBits(before);
  }
}

/** Of the calling thread. */
function setSecureBits(bits: number): boolean {
  if (libc().prctl(PR_SET_SECUREBITS, BigInt(bits), 0n, 0n, 0n) >= 0) return true;
  const errno = lastErrno();
  if (errno === "EPERM") return false;
  throw new SystemError(errno, "set secure bits");
}
