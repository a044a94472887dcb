/** Environments for the processes we start: constructed from a short list, never inherited. */

export type Environment = Readonly<Record<string, string>>;

/** Variables that may pass from us to a child: where programs and homes are, language, time zone. Nothing that changes how a program loads code. */
const PASSED_NAMES = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM", "TMPDIR"] as const;

export const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * A new environment: the harmless variables of `from` and then `extra`. `BUN_*`, `NODE_*` and `LD_*` never pass: with
 * BUN_OPTIONS or BUN_BE_BUN a re-exec of ourselves would run foreign code.
 */
export function cleanEnv(
  extra: Environment = {},
  from: Readonly<Record<string, string | undefined>> = process.env,
): Environment {
  const env: Record<string, string> = { PATH: DEFAULT_PATH };
  for (const name of PASSED_NAMES) {
    const value = from[name];
    if (value !== undefined && value !== "") env[name] = value;
  }
  return { ...env, ...extra };
}

/** Names that change how a program loads code. */
const LOADING_PREFIXES = ["BUN_", "NODE_", "LD_"] as const;

/** What we were started with, for the program that takes our place: all but what changes how a program loads code. */
export function reexecEnv(from: Readonly<Record<string, string | undefined>> = process.env): Environment {
  const kept = Object.entries(from).filter(([name]) => !LOADING_PREFIXES.some((prefix) => name.startsWith(prefix)));
  return Object.fromEntries(kept.flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])));
}
