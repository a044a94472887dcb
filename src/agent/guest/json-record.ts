/** Members of OCI JSON as the agent reads them: checked one by one, everything else passes through. */
import { HearthError } from "../../errors.ts";

export type JsonRecord = Record<string, unknown>;

export function isRecord(value: unknown): value is JsonRecord {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The object at a property, or an empty one when it is absent; anything else is an invalid configuration. */
export function recordAt(parent: JsonRecord, name: string): JsonRecord {
  const value = parent[name];
  if (value === undefined) return {};
  if (!isRecord(value)) throw new HearthError("invalid-argument", `read OCI configuration: ${name} is not an object`);
  return value;
}

/** As recordAt, for a list. */
export function listAt(parent: JsonRecord, name: string): readonly unknown[] {
  const value = parent[name];
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw new HearthError("invalid-argument", `read OCI configuration: ${name} is not a list`);
  return value;
}
