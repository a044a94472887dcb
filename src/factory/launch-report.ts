/** What a starting sandbox process reports on descriptor 3, read line by line and checked. */
import * as v from "valibot";
import { ERROR_CODES, type ErrorCode, HearthError } from "../errors.ts";
import { SANDBOX_REPORT_BYTES_MAX } from "../limits.ts";
import type { FdReader } from "../sys/fd-reader.ts";
import type { SandboxReady } from "./base-factory.ts";

export type SandboxReport =
  | { readonly kind: "step"; readonly step: string }
  | { readonly kind: "ready"; readonly ready: SandboxReady }
  | {
      readonly kind: "error";
      readonly code: ErrorCode;
      readonly message: string;
      readonly hint: string | undefined;
    };

const count = v.pipe(v.number(), v.integer(), v.minValue(1));
const processIdentity = v.object({
  pid: v.pipe(v.number(), v.integer(), v.minValue(2)),
  startTime: v.pipe(v.number(), v.integer(), v.minValue(0)),
});

const StepSchema = v.object({ step: v.pipe(v.string(), v.maxLength(100)) });
const ReadySchema = v.object({
  ready: v.object({
    sandbox: processIdentity,
    socket: v.pipe(v.string(), v.startsWith("/")),
    qemuPid: v.pipe(v.number(), v.integer(), v.minValue(2)),
    vcpus: count,
    memoryMib: count,
    bootMs: v.pipe(v.number(), v.minValue(0)),
  }),
});
const ErrorSchema = v.object({
  error: v.object({
    code: v.picklist(ERROR_CODES),
    message: v.string(),
    hint: v.optional(v.string()),
  }),
});
const ReportSchema = v.union([StepSchema, ReadySchema, ErrorSchema]);

/** Fails with "internal" when the line is none of the three. */
export function parseReport(line: string): SandboxReport {
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch (cause) {
    throw notAReport(line, cause);
  }
  const result = v.safeParse(ReportSchema, json);
  if (!result.success) throw notAReport(line, undefined);
  const report = result.output;
  if ("step" in report) return { kind: "step", step: report.step };
  if ("ready" in report) return { kind: "ready", ready: report.ready };
  return { kind: "error", code: report.error.code, message: report.error.message, hint: report.error.hint };
}

function notAReport(line: string, cause: unknown): HearthError {
  return new HearthError(
    "internal",
    `read report of sandbox process: unexpected ${JSON.stringify(line.slice(0, 200))}`,
    {
      cause,
    },
  );
}

/** Cuts the report into lines; bounded by SANDBOX_REPORT_BYTES_MAX a line. */
export class ReportReader {
  readonly #reader: FdReader;
  readonly #decoder = new TextDecoder();
  #text = "";

  constructor(reader: FdReader) {
    this.#reader = reader;
  }

  /** The next line; undefined at the end, where an unfinished line is dropped: its writer died writing it. */
  async next(signal: AbortSignal): Promise<SandboxReport | undefined> {
    for (;;) {
      const end = this.#text.indexOf("\n");
      if (end >= 0) {
        const line = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 1);
        return parseReport(line);
      }
      if (this.#text.length > SANDBOX_REPORT_BYTES_MAX) {
        throw new HearthError("internal", "read report of sandbox process: line is too long");
      }
      const chunk = await this.#reader.read(undefined, signal);
      if (chunk === null) return undefined;
      this.#text += this.#decoder.decode(chunk, { stream: true });
    }
  }
}
