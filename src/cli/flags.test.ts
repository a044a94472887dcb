import { describe, expect, test } from "bun:test";
import { parseFlags } from "./flags.ts";

const TABLE = {
  bundle: { type: "string", short: "b", help: "" },
  detach: { type: "boolean", short: "d", help: "" },
  tty: { type: "boolean", short: "t", help: "" },
  env: { type: "string", short: "e", multiple: true, help: "" },
} as const;

describe("flags", () => {
  test("end at the first positional", () => {
    const { flags, rest } = parseFlags(TABLE, ["-d", "--bundle", "/b", "c1", "ls", "-la", "--bogus", "--bundle"]);
    expect(flags.detach).toBe(true);
    expect(flags.bundle).toBe("/b");
    expect(rest).toEqual(["c1", "ls", "-la", "--bogus", "--bundle"]);
  });

  test("stand among the positionals where nobody else's words follow", () => {
    const { flags, rest } = parseFlags(TABLE, ["c1", "--bundle", "/b", "KILL", "-d", "--", "--tty"], "never");
    expect(flags).toMatchObject({ bundle: "/b", detach: true, tty: false });
    expect(rest).toEqual(["c1", "KILL", "--tty"]);
    expect(parseFlags(TABLE, ["c1", "c1", "--bogus", "-12"], "never").rest).toEqual(["c1", "c1", "--bogus", "-12"]);
    expect(() => parseFlags(TABLE, ["--bogus", "c1"], "never")).toThrow("flag provided but not defined: --bogus");
  });

  test("end at a double dash, which is dropped", () => {
    expect(parseFlags(TABLE, ["-d", "--", "-x", "--"]).rest).toEqual(["-x", "--"]);
  });

  test("defaults", () => {
    const { flags, rest } = parseFlags(TABLE, []);
    expect(flags).toEqual({ bundle: undefined, detach: false, tty: false, env: [] });
    expect(rest).toEqual([]);
  });

  test("repeated, joined and grouped forms", () => {
    const { flags } = parseFlags(TABLE, ["-dt", "-e", "A=1", "--env=B=2=3", "-eC", "--bundle=x", "-b", "y"]);
    expect(flags).toEqual({ bundle: "y", detach: true, tty: true, env: ["A=1", "B=2=3", "C"] });
  });

  test("a value may look like a flag", () => {
    expect(parseFlags(TABLE, ["--bundle", "--detach", "c"]).flags).toMatchObject({ bundle: "--detach", detach: false });
  });

  test("switches take true and false", () => {
    expect(parseFlags(TABLE, ["--detach=true", "--tty=false"]).flags).toMatchObject({ detach: true, tty: false });
    expect(() => parseFlags(TABLE, ["--detach=maybe"])).toThrow("flag --detach takes no value but true or false");
  });

  test.each([
    [["--bogus", "c"], "flag provided but not defined: --bogus"],
    [["--detahc"], 'flag provided but not defined: --detahc; did you mean "--detach"?'],
    [["-x"], "flag provided but not defined: -x"],
    [["--bundle"], "flag needs an argument: --bundle"],
    [["-dx"], "flag provided but not defined: -x"],
    [["--constructor"], "flag provided but not defined: --constructor"],
    [["--__proto__=x"], "flag provided but not defined: --__proto__"],
  ])("%p is refused", (args, message) => {
    expect(() => parseFlags(TABLE, args)).toThrow(message);
  });

  test("a lone dash is a positional", () => {
    expect(parseFlags(TABLE, ["-d", "-"]).rest).toEqual(["-"]);
  });
});
