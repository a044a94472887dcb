import { describe, expect, test } from "bun:test";
import { ERROR_CODES, HearthError } from "../errors.ts";
import { RPC_ERROR_MESSAGE_LENGTH_MAX } from "../limits.ts";
import { codeOfStatus, RemoteError, statusOfCode, statusOfError } from "./status.ts";

describe("status mapping", () => {
  test.each(ERROR_CODES.map((code) => [code] as const))("%s survives the way there and back", (code) => {
    expect(codeOfStatus(statusOfCode(code))).toBe(code);
  });

  test("every code has its own number", () => {
    expect(new Set(ERROR_CODES.map(statusOfCode)).size).toBe(ERROR_CODES.length);
  });

  test.each([
    [2, "internal"],
    [10, "failed-precondition"],
    [15, "internal"],
    [16, "permission-denied"],
    [4711, "internal"],
    [-1, "internal"],
  ] as const)("foreign status %d is %s", (status, code) => {
    expect(codeOfStatus(status)).toBe(code);
  });

  test("the message carries the causes and is clipped", () => {
    const error = new HearthError("not-found", "open image", { cause: new Error("no such file") });
    expect(statusOfError(error)).toEqual({ code: 5, message: "open image: no such file" });
    expect(statusOfError("boom")).toEqual({ code: 13, message: "boom" });
    expect(statusOfError(new Error("x".repeat(1e6))).message.length).toBe(RPC_ERROR_MESSAGE_LENGTH_MAX);
  });

  test("a remote error without a message names the call", () => {
    expect(new RemoteError(12, "", "a.B/C").message).toBe("call a.B/C: status 12");
  });
});
