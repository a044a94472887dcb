/** What travels over QMP: one JSON object a line, told apart by its keys. Source: QEMU docs/interop/qmp-spec.txt. */
import * as v from "valibot";
import { type ErrorCode, HearthError } from "../../../errors.ts";

export type JsonValue = string | number | boolean | null | readonly JsonValue[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: JsonValue;
}

export interface QemuVersion {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
  /** The vendor's addition, "Debian 1:7.2+dfsg-7"; may be empty. */
  readonly package: string;
}

export type QmpMessage =
  | { readonly kind: "greeting"; readonly version: QemuVersion; readonly capabilities: readonly string[] }
  | { readonly kind: "return"; readonly id: number | undefined; readonly value: unknown }
  | { readonly kind: "error"; readonly id: number | undefined; readonly errorClass: string; readonly text: string }
  | { readonly kind: "event"; readonly name: string; readonly data: unknown };

/** QEMU refused a command. `errorClass` is QEMU's: "GenericError", "CommandNotFound", "DeviceNotFound" … */
export class QmpError extends HearthError {
  override readonly name = "QmpError";
  readonly errorClass: string;

  constructor(command: string, errorClass: string, text: string) {
    super(codeOfClass(errorClass), `qmp ${command}: ${text}`, { facts: { errorClass } });
    this.errorClass = errorClass;
  }
}

function codeOfClass(errorClass: string): ErrorCode {
  switch (errorClass) {
    case "DeviceNotFound":
      return "not-found";
    case "CommandNotFound":
      return "unimplemented";
    default:
      return "failed-precondition";
  }
}

const count = v.pipe(v.number(), v.integer(), v.minValue(0));
const GreetingSchema = v.looseObject({
  QMP: v.looseObject({
    version: v.looseObject({
      qemu: v.looseObject({ major: count, minor: count, micro: count }),
      package: v.optional(v.string(), ""),
    }),
    capabilities: v.optional(v.array(v.unknown()), []),
  }),
});
const ErrorSchema = v.looseObject({
  error: v.looseObject({ class: v.string(), desc: v.string() }),
  id: v.optional(v.number()),
});
const ReturnSchema = v.looseObject({ return: v.unknown(), id: v.optional(v.number()) });
const EventSchema = v.looseObject({ event: v.string(), data: v.optional(v.unknown(), {}) });

/** One line as a message; anything that is none is an "unavailable" error that quotes its beginning. */
export function parseQmpMessage(line: string): QmpMessage {
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch {
    throw notQmp(line, "no JSON");
  }
  if (typeof json !== "object" || json === null) throw notQmp(line, "no object");
  if ("event" in json) {
    const { event, data } = parse(EventSchema, json, line);
    return { kind: "event", name: event, data };
  }
  if ("return" in json) {
    const parsed = parse(ReturnSchema, json, line);
    return { kind: "return", id: parsed.id, value: parsed.return };
  }
  if ("error" in json) {
    const { error, id } = parse(ErrorSchema, json, line);
    return { kind: "error", id, errorClass: error.class, text: error.desc };
  }
  if ("QMP" in json) {
    const { QMP } = parse(GreetingSchema, json, line);
    const { major, minor, micro } = QMP.version.qemu;
    const capabilities = QMP.capabilities.filter((capability) => typeof capability === "string");
    return { kind: "greeting", version: { major, minor, micro, package: QMP.version.package }, capabilities };
  }
  throw notQmp(line, "unknown kind of message");
}

function parse<S extends v.GenericSchema>(schema: S, json: unknown, line: string): v.InferOutput<S> {
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  throw notQmp(line, `${v.getDotPath(result.issues[0]) ?? "message"}: ${result.issues[0].message}`);
}

function notQmp(line: string, why: string): HearthError {
  return new HearthError("unavailable", `read qmp message: ${why}: ${JSON.stringify(line.slice(0, 80))}`);
}

/** A command as the line that QEMU reads. */
export function formatQmpCommand(command: string, id: number, args: JsonObject): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
}
