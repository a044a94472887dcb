/** The guest kernel's command line: ours, then what the configuration adds and so may override. */
import { HearthError } from "../../errors.ts";

/** Bytes. Source: COMMAND_LINE_SIZE on x86. */
const COMMAND_LINE_BYTES_MAX = 2047;

export function kernelCommandLine(own: readonly string[], added: readonly string[]): string {
  const line = [...own, ...added].join(" ");
  const bytes = new TextEncoder().encode(line).length;
  if (bytes > COMMAND_LINE_BYTES_MAX) {
    throw new HearthError(
      "invalid-argument",
      `pass kernel parameters: ${bytes} bytes, more than ${COMMAND_LINE_BYTES_MAX}`,
    );
  }
  if (/[\0\n]/.test(line)) throw new HearthError("invalid-argument", "pass kernel parameters: line break or zero byte");
  return line;
}
