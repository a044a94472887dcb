import { describe, expect, test } from "bun:test";
import { isBeginOfRefusal, refusedExec, refusedProgram } from "./exec-failure.ts";

const TERMINAL = (said: string): string => `\u001b[1;31m2026-11-23T23:53:58.326721Z: ${said}\u001b[0m\r\n`;
const SAID = "exec container process `/bin/arm`: Exec format error";

describe("a program that the kernel does not execute", () => {
  test.each([
    [`${SAID}\n`, "/bin/arm", "exec /bin/arm: exec format error\n"],
    [`${SAID}\n`, "arm", "exec /bin/arm: exec format error\n"],
    [TERMINAL(SAID), "/bin/arm", "exec /bin/arm: exec format error\n"],
    ["exec container process `//./arm`: Exec format error\n", "./arm", "exec ./arm: exec format error\n"],
    [
      "exec container process (missing dynamic library?) `/s`: No such file or directory\n",
      "/s",
      "exec /s: no such file or directory\n",
    ],
  ])("%j, started as %s", (said, program, words) => {
    expect(refusedProgram(said, program)).toBe(words);
  });

  test.each([
    ["another one's", `${SAID}\n`, "/bin/other"],
    ["and more", `${SAID}\nmore\n`, "/bin/arm"],
    ["not all of a line", SAID, "/bin/arm"],
    ["something else", "hello\n", "/bin/arm"],
  ])("not: %s", (_case, said, program) => {
    expect(refusedProgram(said, program)).toBeUndefined();
  });

  test("on a terminal its line comes in pieces", () => {
    const line = TERMINAL(SAID);
    for (const end of [7, 12, line.length - 2]) expect(isBeginOfRefusal(line.slice(0, end))).toBe(true);
    for (const said of [line, `${SAID}\n`, SAID, "\u001b[2J", "$ "]) expect(isBeginOfRefusal(said)).toBe(false);
  });

  test("started by exec", () => {
    const words = "exec /arm: exec format error\n";
    expect(refusedExec("exec: Exec format error\n", "/arm")).toBe(words);
    expect(refusedExec(TERMINAL("exec: Exec format error"), "/arm")).toBe(words);
    expect(refusedExec("exec: Exec format error\nmore\n", "/arm")).toBeUndefined();
    expect(refusedExec("sh: exec: Exec format error\n", "/arm")).toBeUndefined();
  });
});
