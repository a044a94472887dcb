/**
 * Strict command-line flags. As runc's they may stand anywhere among the positionals (`delete c1 --force`), save where
 * another program's command line follows: `exec c1 ls -la` leaves `-la` alone.
 */
import { parseArgs } from "node:util";
import { didYouMean } from "../util/nearest.ts";
import { UsageError } from "./usage-error.ts";

export interface Flag {
  readonly type: "boolean" | "string";
  /** One letter. */
  readonly short?: string;
  /** May be given several times; the value is then a list. */
  readonly multiple?: boolean;
  /** Name of the value in the usage text. */
  readonly value?: string;
  readonly help: string;
}

export type FlagTable = Readonly<Record<string, Flag>>;

type FlagValue<F extends Flag> = F["type"] extends "boolean"
  ? boolean
  : F extends { readonly multiple: true }
    ? readonly string[]
    : string | undefined;

export type FlagValues<T extends FlagTable> = { readonly [Name in keyof T]: FlagValue<T[Name]> };

export interface ParsedFlags<T extends FlagTable> {
  /** Booleans are false and lists empty when the flag was not given. */
  readonly flags: FlagValues<T>;
  /** The positionals. */
  readonly rest: readonly string[];
}

/** Where flags are looked for: up to the first positional, or up to `--` alone. */
export type FlagsEnd = "first-positional" | "never";

/**
 * Parses the flags. `-h`/`--help` belongs to the caller's table when it wants it. Fails with invalid-argument for an unknown flag (naming the nearest), a missing value, or a value for a switch.
 */
export function parseFlags<const T extends FlagTable>(
  table: T,
  args: readonly string[],
  end: FlagsEnd = "first-positional",
): ParsedFlags<T> {
  const { tokens } = parseArgs({
    args: [...args],
    options: Object.fromEntries(Object.entries(table).map(([name, flag]) => [name, parserOption(flag)])),
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const values: Record<string, boolean | string | string[] | undefined> = {};
  for (const [name, flag] of Object.entries(table)) {
    values[name] = flag.type === "boolean" ? false : flag.multiple === true ? [] : undefined;
  }
  const rest: string[] = [];
  let lastTaken = -1;
  for (const token of tokens) {
    if (token.kind === "positional" && end === "first-positional") {
      rest.push(...args.slice(token.index));
      break;
    }
    if (token.kind === "option-terminator") {
      rest.push(...args.slice(token.index + 1));
      break;
    }
    // As for runc, behind a positional what is no flag of ours is a positional too: the -1 of `kill c1 -1`.
    const isForeign = token.kind === "option" && rest.length > 0 && !Object.hasOwn(table, token.name);
    if (token.kind === "option" && !isForeign) assignFlag(table, values, token);
    // Each letter of -123 is a token of its own, all with one index.
    else if (token.index > lastTaken) rest.push(...args.slice(token.index, token.index + 1));
    lastTaken = token.index;
  }
  // The record was built from the table's own names and types just above.
  return { flags: values as FlagValues<T>, rest };
}

interface OptionToken {
  readonly name: string;
  readonly rawName: string;
  readonly value: string | undefined;
}

function assignFlag(
  table: FlagTable,
  values: Record<string, boolean | string | string[] | undefined>,
  { name, rawName, value }: OptionToken,
): void {
  const flag = Object.hasOwn(table, name) ? table[name] : undefined;
  if (flag === undefined) {
    const known = Object.keys(table).map((candidate) => `--${candidate}`);
    throw new UsageError(`flag provided but not defined: ${rawName}${didYouMean(rawName, known)}`);
  }
  if (flag.type === "boolean") {
    values[name] = switchValue(rawName, value);
    return;
  }
  if (value === undefined) throw new UsageError(`flag needs an argument: ${rawName}`);
  const list = values[name];
  if (Array.isArray(list)) list.push(value);
  else values[name] = value;
}

/** A switch may be written `--flag=true` or `--flag=false`, as Go programs do. */
function switchValue(rawName: string, value: string | undefined): boolean {
  if (value === undefined || value === "true") return true;
  if (value === "false") return false;
  throw new UsageError(`flag ${rawName} takes no value but true or false, got ${JSON.stringify(value)}`);
}

function parserOption(flag: Flag): { type: "boolean" | "string"; short?: string } {
  return { type: flag.type, ...(flag.short === undefined ? {} : { short: flag.short }) };
}
