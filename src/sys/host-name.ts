/** The system's host name. */
import { check, cString, lazyLibc } from "./libc.ts";

const libc = lazyLibc({ sethostname: { args: ["ptr", "u64"], returns: "i32" } });

/** Sets the name of this UTS namespace, at most 64 bytes; needs CAP_SYS_ADMIN. */
export function setHostName(name: string): void {
  const bytes = cString(name);
  check(libc().sethostname(bytes, BigInt(bytes.length - 1)), `set host name ${name}`);
}
