/** runc's global flags, which engines put before every command. */
import type { FlagTable } from "../flags.ts";

export const GLOBAL_FLAGS = {
  root: { type: "string", value: "DIR", help: "where containers are recorded (default: <run_dir>/containers)" },
  log: { type: "string", value: "FILE", help: "append log lines and the error to FILE (default: standard error)" },
  "log-format": { type: "string", value: "FORMAT", help: "text (default) or json" },
  debug: { type: "boolean", help: "log everything" },
  config: { type: "string", value: "FILE", help: "configuration (default: $HEARTH_CONFIG or /etc/hearth/config.toml)" },
  "systemd-cgroup": {
    type: "boolean",
    help: "cgroupsPath is slice:prefix:name; its directory is made without asking systemd",
  },
  rootless: { type: "string", value: "BOOL", help: "true is refused: a VM needs the host's root" },
  criu: { type: "string", value: "PATH", help: "accepted and ignored: there is no checkpoint" },
  version: { type: "boolean", short: "v", help: "print the version" },
  help: { type: "boolean", short: "h", help: "print this text" },
} as const satisfies FlagTable;
