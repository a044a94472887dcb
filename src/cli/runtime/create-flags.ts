/** The flags that `create` and `run` share, and those of runc that a VM makes meaningless. */
import type { FlagTable } from "../flags.ts";
import { PRESERVE_FDS_FLAG } from "./preserved-fds.ts";

export const CREATE_FLAGS = {
  bundle: { type: "string", short: "b", value: "DIR", help: "bundle directory (default: the current one)" },
  "console-socket": { type: "string", value: "SOCKET", help: "unix socket that receives the terminal's master side" },
  "pidfd-socket": {
    type: "string",
    value: "SOCKET",
    help: "unix socket that receives a pidfd of the container's shim",
  },
  "pid-file": { type: "string", value: "FILE", help: "write the pid of the container's shim to FILE" },
  "no-pivot": { type: "boolean", help: "accepted: the guest's root is never on a ramdisk" },
  "no-new-keyring": { type: "boolean", help: "accepted: the guest has session keyrings of its own" },
  "preserve-fds": PRESERVE_FDS_FLAG,
} as const satisfies FlagTable;
