/** What every runtime command is given: log, container root and configuration, each opened when first asked for. */
import { closeSync, openSync } from "node:fs";
import type { HearthConfig } from "../../config/config.ts";
import { HearthError, toHearthError } from "../../errors.ts";
import type { BaseVm } from "../../factory/base-factory.ts";
import { createLog, type Log, type LogFormat } from "../../log.ts";
import { defaultContainerRoot } from "../../paths.ts";
import type { VmSize } from "../../vm/vm-config.ts";
import type { FlagValues } from "../flags.ts";
import type { GLOBAL_FLAGS } from "./globals.ts";

export interface VmRequest {
  readonly config: HearthConfig;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** The size that the container needs; a VM of another is grown, or accepted when it has more. */
  readonly need: VmSize;
}

/**
 * Where VMs come from: finds one and has it adopted. `adopt` leaves nothing behind when it fails, and may be called again
 * with another VM. Fails without leaving anything behind.
 */
export type AcquireVm = <T>(request: VmRequest, adopt: (vm: BaseVm) => Promise<T>) => Promise<T>;

/** What commands do not decide themselves. */
export interface RuntimeDependencies {
  readonly acquireVm: AcquireVm;
}

export interface RuntimeContext extends RuntimeDependencies {
  readonly log: Log;
  /** Where the log goes to a file of its own, so that standard error is free for the error itself. */
  readonly logFd: number | undefined;
  readonly debug: boolean;
  /** Reads the files at the first call. */
  config(): Promise<HearthConfig>;
  /** `--root`, else below the configured run directory. */
  root(): Promise<string>;
}

export type GlobalValues = FlagValues<typeof GLOBAL_FLAGS>;

/**
 * `ownStderr`: warnings may go to standard error when there is no log file.
 * Opens the log file, if there is one, for the rest of the process's life. Fails with invalid-argument for a bad flag.
 */
export function createContext(
  globals: GlobalValues,
  dependencies: RuntimeDependencies,
  { ownStderr }: { readonly ownStderr: boolean },
): RuntimeContext {
  const format = logFormat(globals["log-format"]);
  if (globals.rootless === "true") {
    throw new HearthError("unimplemented", "run rootless: not supported, a VM needs the host's root");
  }
  const path = globals.log === "" ? undefined : globals.log;
  const level = globals.debug ? "debug" : path !== undefined ? "info" : ownStderr ? "warn" : "error";
  const logFd = path === undefined ? undefined : openLog(path);
  const log = createLog({ level, format, ...(logFd === undefined ? {} : { fd: logFd }) });
  let config: Promise<HearthConfig> | undefined;
  const readConfig = async (): Promise<HearthConfig> => {
    const { loadConfig } = await import("../../config/load.ts");
    return await loadConfig({ flag: globals.config, environment: process.env["HEARTH_CONFIG"] });
  };
  const configOnce = (): Promise<HearthConfig> => {
    config ??= readConfig();
    return config;
  };
  return {
    ...dependencies,
    log,
    logFd,
    debug: globals.debug,
    config: configOnce,
    async root() {
      const { root } = globals;
      return root === undefined || root === "" ? defaultContainerRoot((await configOnce()).runtime.run_dir) : root;
    },
  };
}

function logFormat(value: string | undefined): LogFormat {
  if (value === undefined || value === "" || value === "text") return "text";
  if (value === "json") return "json";
  throw new HearthError("invalid-argument", `invalid log-format: ${JSON.stringify(value)}`);
}

function openLog(path: string): number {
  try {
    const fd = openSync(path, "a", 0o644);
    // A log that is standard error under another name needs no copy of the error there; nothing else depends on it.
    if (fd > 2) return fd;
    closeSync(fd);
    throw new HearthError("invalid-argument", `open log ${path}: standard streams are closed`);
  } catch (thrown) {
    throw toHearthError(thrown, `open log ${path}`);
  }
}
