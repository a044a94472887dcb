import { describe, expect, test } from "bun:test";
import { START_FAILURE } from "../../util/start-failure.ts";
import { crunError, logMessages } from "./crun.ts";

const call = { id: "c1", program: "prog" };

describe("what crun says", () => {
  test.each([
    [
      "executable file `prog` not found in $PATH: No such file or directory",
      "not-found",
      "executable file not found in $PATH",
    ],
    ["open executable: Permission denied", "permission-denied", "permission denied"],
    ["open executable: Operation not permitted", "permission-denied", "permission denied"],
  ] as const)("%s", (said, code, reason) => {
    expect(crunError("exec", call, said)).toMatchObject({ code, message: `${START_FAILURE}: exec: "prog": ${reason}` });
  });

  test("a working directory that cannot be entered, in runc's words", () => {
    const message = `${START_FAILURE}: chdir to cwd ("/nope") set in config.json failed: no such file or directory`;
    const error = crunError("exec", call, "chdir `/nope`: No such file or directory");
    expect(error).toMatchObject({ code: "failed-precondition", message });
  });

  test.each([
    ["the container `c1` is not running", "failed-precondition"],
    ["the container `c1` is paused", "failed-precondition"],
    ["container `c1` already exists", "already-exists"],
    ["error opening file `/run/hearth/crun/c1/status`: No such file or directory", "not-found"],
    ["mount `proc` to `/proc`: Operation not permitted", "permission-denied"],
    ["mount `x` to `/y`: No such file or directory", "internal"],
    ["exit status 1", "internal"],
  ] as const)("%s", (said, code) => {
    expect(crunError("create", call, said)).toMatchObject({ code, message: `create container c1: ${said}` });
  });
});

test("log lines lose their times", () => {
  const log = "2026-11-23T23:53:58.326721Z: first `x`: No such file\n2026-11-23T23:53:58.3Z: second\n\n";
  expect(logMessages(log)).toEqual(["first `x`: No such file", "second"]);
});
