/** The flags that `create` and `run` share, and those of runc that a VM makes meaningless. */
import { HearthError } from "../../errors.ts";
import type { FlagTable } from "../flags.ts";
import { UsageError } from "../usage-error.ts";

export const CREATE_FLAGS = {
  bundle: { type: "string", short: "b", value: "DIR", help: "bundle directory (default: the current one)" },
  "console-socket": { type: "string", value: "SOCKET", help: "unix socket that receives the terminal's master side" },
  "pid-file": { type: "string", value: "FILE", help: "write the pid of the container's shim to FILE" },
  "no-pivot": { type: "boolean", help: "accepted: the guest's root is never on a ramdisk" },
  "no-new-keyring": { type: "boolean", help: "accepted: the guest has session keyrings of its own" },
  "preserve-fds": { type: "string", value: "N", help: "must be 0: file descriptors do not reach into a VM" },
} as const satisfies FlagTable;

/** Fails for a number above 0, or sockets by systemd's protocol: dropping them silently would be worse. */
export function checkPreserveFds(value: string | undefined): void {
  const { LISTEN_PID: pid, LISTEN_FDS: sockets = "0" } = process.env;
  // Source: sd_listen_fds(3). Meant for another process, they are none of ours.
  if (pid === String(process.pid) && Number(sockets) > 0) throw cannotPreserve(sockets);
  if (value === undefined) return;
  if (!/^\d{1,9}$/.test(value)) {
    throw new UsageError(`invalid value ${JSON.stringify(value)} for flag --preserve-fds: must be a number`);
  }
  if (Number(value) > 0) throw cannotPreserve(value);
}

function cannotPreserve(count: string): HearthError {
  return new HearthError("unimplemented", `preserve ${count} file descriptors: they do not reach into a VM`);
}
