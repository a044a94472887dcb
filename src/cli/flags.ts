/** Strict command-line flags that end at the first positional, as runc's do: `exec c1 ls -la` leaves `-la` alone. */
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
  /** Everything from the first positional on, or after `--`. */
  readonly rest: readonly string[];
}

/**
 * Parses the flags in front of the first positional. `-h`/`--help` belongs to the caller's table when it wants it.
 * Fails with invalid-argument for an unknown flag (naming the nearest), a missing value, or a value for a switch.
 */
export function parseFlags<const T extends FlagTable>(table: T, args: readonly string[]): ParsedFlags<T> {
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
  let rest: string[] = [];
  for (const token of tokens) {
    if (token.kind === "positional") {
      rest = args.slice(token.index);
      break;
    }
    if (token.kind === "option-terminator") {
      rest = args.slice(token.index + 1);
      break;
    }
    assignFlag(table, values, token);
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
