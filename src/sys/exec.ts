/** Becoming another program without becoming another process. */
import { HearthError } from "../errors.ts";
import type { Environment } from "./environment.ts";
import { addressOf, check, cString, lazyLibc } from "./libc.ts";

const libc = lazyLibc({ execve: { args: ["ptr", "ptr", "ptr"], returns: "i32" } });

/**
 * The program takes this process over: same pid, parent, session and standard streams. Whatever else is open is closed,
 * and nothing of ours runs any more: end everything first. Returns only by failing.
 */
export function becomeProgram(path: string, argv: readonly string[], env: Environment): never {
  const args = pointers(argv);
  const environment = pointers(Object.entries(env).map(([name, value]) => `${name}=${value}`));
  check(libc().execve(cString(path), args.table, environment.table), `become ${path}`);
  throw new HearthError("internal", `become ${path}: it did not`, {
    facts: { arguments: args.strings.length, variables: environment.strings.length },
  });
}

/** The strings are kept with the table that points to them. */
function pointers(texts: readonly string[]): {
  readonly table: BigUint64Array;
  readonly strings: readonly Uint8Array[];
} {
  const strings = texts.map(cString);
  return { table: BigUint64Array.from([...strings.map(addressOf), 0n]), strings };
}
