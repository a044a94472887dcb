/** JSON as OCI files use it: 64-bit integers stay exact, and null means that the property is absent, as in Go. */
import { HearthError } from "../errors.ts";

// Not yet in the compiler's library. Source: TC39 proposal-json-parse-with-source.
declare global {
  interface JSON {
    parse(
      text: string,
      reviver: (this: unknown, key: string, value: unknown, context: { readonly source?: string }) => unknown,
    ): unknown;
    rawJSON(text: string): object;
  }
}

/** Integers beyond 2^53 become bigint (RLIM_INFINITY is 2^64-1), null properties vanish. Fails with invalid-argument. */
export function parseOciJson(text: string, source: string): unknown {
  try {
    // Only digits in such a row can lose precision; the reviver costs four times the parsing.
    return withoutNulls(/\d{16}/.test(text) ? JSON.parse(text, exactInteger) : JSON.parse(text));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.replace(/^JSON Parse error: /, "") : String(cause);
    throw new HearthError("invalid-argument", `parse ${source}: not JSON: ${reason}`, { facts: { source } });
  }
}

/** The inverse of parseOciJson: bigint is written as a plain number. */
export function stringifyOciJson(value: unknown, indent?: number): string {
  const text = JSON.stringify(
    value,
    (_key, item: unknown) => (typeof item === "bigint" ? JSON.rawJSON(item.toString()) : item),
    indent,
  );
  if (text === undefined) throw new HearthError("internal", "write JSON: the value has no JSON form");
  return text;
}

function exactInteger(_key: string, value: unknown, context: { readonly source?: string }): unknown {
  if (typeof value !== "number" || Number.isSafeInteger(value) || context.source === undefined) return value;
  return /^-?\d+$/.test(context.source) ? BigInt(context.source) : value;
}

function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).filter(([, item]) => item !== null);
  return Object.fromEntries(entries.map(([key, item]) => [key, withoutNulls(item)]));
}
