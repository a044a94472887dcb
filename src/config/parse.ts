/** One configuration file: TOML to checked keys, with errors that say where. The only user of smol-toml. */
import { parse, TomlError } from "smol-toml";
import * as v from "valibot";
import { HearthError } from "../errors.ts";
import { didYouMean } from "../util/nearest.ts";
import { type ConfigFile, ConfigFileSchema, KNOWN_NAMES } from "./schema.ts";

/** Fails with invalid-argument; `path` is for the messages only. */
export function parseConfigFile(text: string, path: string): ConfigFile {
  const result = v.safeParse(ConfigFileSchema, parseToml(text, path));
  if (result.success) return result.output;
  // Of a name that is mistyped, not that the right one is missing.
  const issue = result.issues.find(isUnknownKey) ?? result.issues[0];
  throw new HearthError("invalid-argument", `check configuration ${path}: ${describeIssue(issue)}`, {
    facts: { path },
  });
}

function parseToml(text: string, path: string): unknown {
  try {
    return parse(text);
  } catch (thrown) {
    if (!(thrown instanceof TomlError)) throw thrown;
    // The first line is the reason; the rest is a drawing of the place.
    const [first = "malformed"] = thrown.message.split("\n");
    const reason = first.replace(/^Invalid TOML document: /, "");
    throw new HearthError(
      "invalid-argument",
      `parse configuration ${path}: line ${thrown.line}, column ${thrown.column}: ${reason}`,
      { facts: { path, line: thrown.line, column: thrown.column } },
    );
  }
}

function isUnknownKey(issue: v.BaseIssue<unknown>): boolean {
  return issue.type === "strict_object" && issue.expected === "never";
}

function describeIssue(issue: v.BaseIssue<unknown>): string {
  const path = (issue.path ?? []).map((item) => item.key);
  const key = path
    .map((part) => (typeof part === "number" ? `[${part}]` : `.${part}`))
    .join("")
    .replace(/^\./, "");
  const keys = path.filter((part) => typeof part !== "number").map(String);
  if (isUnknownKey(issue)) {
    const name = keys.at(-1) ?? "";
    const place = keys.slice(0, -1).join(".");
    return `unknown key ${key}${didYouMean(name, KNOWN_NAMES[place] ?? [])}`;
  }
  if (issue.type === "strict_object" && issue.input === undefined) return `${key} is missing`;
  if (issue.type === "strict_object") return `${key} must be a table`;
  const got = typeof issue.input === "object" ? "" : `, got ${JSON.stringify(issue.input)}`;
  const rule = issue.message.startsWith("must") ? issue.message : "must be a string";
  return `${key} ${rule}${got}`;
}
