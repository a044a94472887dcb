import { describe, expect, test } from "bun:test";
import { HearthError } from "../errors.ts";
import { OCI_CONFIG_BYTES_MAX } from "../limits.ts";
import { checkContainerId } from "./container-id.ts";
import { parseOciJson, stringifyOciJson } from "./json.ts";
import { checkCreatable, parseSpec, stringifySpec } from "./spec.ts";

const minimal = {
  ociVersion: "1.0.2",
  process: { args: ["sh"], cwd: "/", user: { uid: 0, gid: 0 } },
  root: { path: "rootfs" },
};
const with_ = (changes: object): string => JSON.stringify({ ...minimal, ...changes });
const process_ = (changes: object): string => with_({ process: { ...minimal.process, ...changes } });

describe("configuration", () => {
  test.each(["1.0.0", "1.0.2-dev", "1.1.0-rc.1", "1.3.0", "1.99.7+x"])("ociVersion %p is read", (ociVersion) => {
    expect(parseSpec(with_({ ociVersion }), "f").ociVersion).toBe(ociVersion);
  });

  test("of variables with one name the last one is read", () => {
    const { process } = parseSpec(process_({ env: ["A=1", "B==", "A=2=3", "AA=1"] }), "f");
    expect(process?.env).toEqual(["A=2=3", "B==", "AA=1"]);
  });

  test.each<[string, string]>([
    ["{", "parse f: not JSON: "],
    ["", "parse f: not JSON: "],
    ["[]", "check f: "],
    ["5", "check f: the configuration must be an object, got 5"],
    ["{}", "check f: ociVersion is missing"],
    [with_({ ociVersion: "" }), "check f: ociVersion must be a 1.x version"],
    [with_({ ociVersion: "2.0.0" }), 'check f: ociVersion must be a 1.x version of the OCI runtime spec, got "2.0.0"'],
    [with_({ ociVersion: "10.0.0" }), "ociVersion must be a 1.x version"],
    [with_({ ociVersion: 1 }), "check f: ociVersion must be a string, got 1"],
    [with_({ process: 5 }), "check f: process must be an object, got 5"],
    [process_({ cwd: "rel" }), 'check f: process.cwd must be an absolute path, got "rel"'],
    [process_({ cwd: "" }), "check f: process.cwd must not be empty"],
    [process_({ cwd: undefined }), "check f: process.cwd is missing"],
    [process_({ args: "sh" }), 'check f: process.args must be a list of strings, got "sh"'],
    [process_({ args: [5] }), "check f: process.args.0 must be a string, got 5"],
    [process_({ env: ["A\0=1"] }), "check f: process.env.0 must not contain a zero byte"],
    [process_({ env: ["A"] }), 'check f: process.env.0 must be a name, = and a value, got "A"'],
    [process_({ env: ["=x"] }), "check f: process.env.0 must be a name, = and a value"],
    [process_({ user: { uid: 2_147_483_648 } }), "check f: process.user.uid must be below 2^31"],
    [process_({ user: { uid: -1 } }), "check f: process.user.uid must not be negative, got -1"],
    [process_({ user: { uid: "bob" } }), 'check f: process.user.uid must be a whole number, got "bob"'],
    [process_({ terminal: "yes" }), 'check f: process.terminal must be true or false, got "yes"'],
    [with_({ mounts: {} }), "check f: mounts must be a list of mounts"],
    [with_({ mounts: [{ type: "proc" }] }), "check f: mounts.0.destination is missing"],
    [with_({ hooks: { prestart: [{ path: "rel" }] } }), "check f: hooks.prestart.0.path must be an absolute path"],
    [with_({ hooks: { prestart: [{ path: "/x", timeout: 0 }] } }), "hooks.prestart.0.timeout must be above 0, got 0"],
    [with_({ linux: { namespaces: [{}] } }), "check f: linux.namespaces.0.type is missing"],
    [with_({ root: { path: "" } }), "check f: root.path must not be empty"],
  ])("%p is refused", (text, message) => {
    let error: unknown;
    try {
      parseSpec(text, "f");
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(HearthError);
    expect(String(error)).toContain(message);
    expect(String(error)).not.toContain("\n");
  });

  test.each<[object, string]>([
    [{ process: undefined }, "process must not be empty"],
    [{ process: { ...minimal.process, args: [] } }, "process.args must not be empty"],
    [{ process: { ...minimal.process, args: undefined } }, "process.args must not be empty"],
    [{ process: { ...minimal.process, args: [""] } }, 'process.args[0]: exec: "": executable file not found in $PATH'],
    [{ root: undefined }, "root must be specified"],
  ])("%p cannot be created", (changes, message) => {
    expect(() => checkCreatable(parseSpec(with_(changes), "f"), "f")).toThrow(`check f: ${message}`);
  });

  test("a configuration over the limit", () => {
    const text = with_({ annotations: { x: "y".repeat(OCI_CONFIG_BYTES_MAX) } });
    expect(() => parseSpec(text, "f")).toThrow(`read f: larger than ${OCI_CONFIG_BYTES_MAX} bytes`);
  });

  test("unknown properties pass through, null is absence, user has a default", () => {
    const text = `{"ociVersion":"1.3.0","future":{"a":[1,null]},"hostname":null,"process":{"cwd":"/","args":["x"],"env":null}}`;
    const spec = parseSpec(text, "f");
    expect(JSON.parse(stringifySpec(spec))).toEqual({
      ociVersion: "1.3.0",
      future: { a: [1, null] },
      process: { cwd: "/", args: ["x"], user: { uid: 0, gid: 0 } },
    });
  });

  test("64-bit integers stay exact", () => {
    const text = process_({ rlimits: [{ type: "RLIMIT_CORE", hard: 0, soft: 0 }] }).replace(
      '"hard":0',
      '"hard":18446744073709551615',
    );
    const limit = '{"memory":{"limit":9223372036854771712},"x":-9007199254740993,"y":1e300,"z":"12345678901234567890"}';
    expect(stringifySpec(parseSpec(text, "f"))).toContain('"hard":18446744073709551615');
    expect(stringifyOciJson(parseOciJson(limit, "f"))).toBe(limit.replace("1e300", "1e+300"));
  });
});

describe("container id", () => {
  test.each(["a", "c1", "A_b-c.d+e", "...", "x".repeat(200), "-x"])("%p is one", (id) => {
    expect(() => checkContainerId(id)).not.toThrow();
  });

  test.each<[string, string]>([
    ["", "container id cannot be empty"],
    [".", "invalid container ID format"],
    ["..", "invalid container ID format"],
    ["../x", 'invalid container ID format: "../x"'],
    ["a b", "invalid container ID format"],
    ["a/b", "invalid container ID format"],
    ["ü", "invalid container ID format"],
    ["a\nb", 'invalid container ID format: "a\\nb"'],
    ["x\n", "invalid container ID format"],
    ["x".repeat(300), "300 characters, at most 200"],
  ])("%p is not", (id, message) => {
    expect(() => checkContainerId(id)).toThrow(message);
  });
});
