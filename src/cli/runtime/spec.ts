/** `spec`: writes a starter config.json that works with this runtime. */
import { existsSync, statSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { HearthError, toHearthError } from "../../errors.ts";
import { refusePositionals } from "../usage-error.ts";
import { defineRuntimeCommand } from "./command.ts";
import { STARTER_SPEC } from "./starter-spec.ts";

export const command = defineRuntimeCommand({
  flags: {
    bundle: { type: "string", short: "b", value: "DIR", help: "bundle directory (default: the current one)" },
    rootless: { type: "boolean", help: "refused: a VM needs the host's root" },
  },
  positionals: "",
  async run(_context, flags, positionals) {
    refusePositionals(positionals);
    if (flags.rootless) {
      throw new HearthError("unimplemented", "write rootless spec: not supported, a VM needs the host's root");
    }
    const dir = resolve(flags.bundle ?? ".");
    const path = join(dir, "config.json");
    if (statSync(dir, { throwIfNoEntry: false })?.isDirectory() !== true) {
      throw new HearthError("not-found", `write ${path}: no such file or directory`);
    }
    if (existsSync(path)) throw new HearthError("already-exists", `file ${path} exists; remove it first`);
    try {
      writeFileSync(path, `${JSON.stringify(STARTER_SPEC, null, 4)}\n`, { mode: 0o666, flag: "wx" });
    } catch (thrown) {
      throw toHearthError(thrown, `write ${path}`);
    }
  },
});
