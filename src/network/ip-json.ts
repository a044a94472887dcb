/** Reading iproute2's JSON. */
import * as v from "valibot";
import { HearthError } from "../errors.ts";

/** A number as text, decimal or 0x…, as `ip -N` writes what has a name. */
export const numeric = v.pipe(
  v.string(),
  v.regex(/^(?:\d+|0x[\da-f]+)$/, "is no number"),
  v.transform((text) => Number(text)),
);

/** Numbers without a name, of 32 bits. */
export const u32 = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffffffff));

/** `what` was asked for. Fails with internal when ip's answer is not understood; no answer is an empty list. */
export function parseIpJson<const Schema extends v.GenericSchema>(schema: Schema, text: string, what: string) {
  let json: unknown;
  try {
    json = text.trim() === "" ? [] : JSON.parse(text);
  } catch (cause) {
    throw new HearthError("internal", `read ${what} of network namespace: ip did not answer JSON`, { cause });
  }
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  throw new HearthError("internal", `read ${what} of network namespace: ${result.issues[0].message}`);
}

/**
 * Nothing that an entry says is left out in silence: a key that is neither carried nor known to make no difference in the
 * guest fails with unimplemented. `what` names the entry.
 */
export function refuseOtherKeys(entry: object, known: ReadonlySet<string>, what: string): void {
  const other = Object.keys(entry).find((key) => !known.has(key));
  if (other !== undefined) throw notSupported(what, other);
}

export function notSupported(what: string, property: string): HearthError {
  return new HearthError("unimplemented", `connect network: ${what}: ${property} is not supported`);
}
