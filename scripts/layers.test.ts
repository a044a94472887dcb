import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { checkFile, checkLayers, FILE_LINES_MAX, importsOf, placeOf } from "./layers.ts";

const anything = (): boolean => true;
const reasonsOf = (path: string, text: string): string[] => checkFile({ path, text }, anything).map((f) => f.reason);

test("the tree obeys its layers", async () => {
  const faults = await checkLayers(join(import.meta.dir, "../src"));
  expect(faults.map(({ file, line, reason }) => `src/${file}:${line} ${reason}`)).toEqual([]);
});

describe("importsOf", () => {
  test.each([
    ['import a from "./a.ts";', "./a.ts"],
    ['import "./a.ts";', "./a.ts"],
    ['import type { A } from "./a.ts";', "./a.ts"],
    ['import {\n  A,\n  type B,\n} from "./a.ts";', "./a.ts"],
    ['import * as a from "./a.ts";', "./a.ts"],
    ['export { a } from "./a.ts";', "./a.ts"],
    ['export * from "./a.ts";', "./a.ts"],
    ['const a = await import("./a.ts");', "./a.ts"],
    ['const a = require("./a.ts");', "./a.ts"],
    ['type A = import("./a.ts").A;', "./a.ts"],
    ["import a from './a.ts';", "./a.ts"],
  ])("%s", (text, specifier) => {
    expect(importsOf(text).map((found) => found.specifier)).toEqual([specifier]);
  });

  test("comments are no imports, and a string with slashes does not hide what follows", () => {
    expect(importsOf('// import a from "./a.ts";\n/* import "./b.ts"; */\n')).toEqual([]);
    expect(importsOf('const url = "http://x"; import "./c.ts";')).toHaveLength(1);
  });

  test("knows its line", () => {
    expect(importsOf('\n\nimport "./a.ts";\n')).toEqual([{ specifier: "./a.ts", line: 3 }]);
  });
});

describe("rows", () => {
  test.each([
    ["vm/vm-config.ts", "../factory/direct.ts"],
    ["network/tap.ts", "../storage/block.ts"],
    ["sandbox/sandbox.ts", "../vmcache/server.ts"],
    ["sys/lock.ts", "../gen/agent_pb.ts"],
    ["errors.ts", "./sys/lock.ts"],
    ["shim/shim.ts", "../cli/flags.ts"],
    ["agent/guest/main.ts", "../client/client.ts"],
    ["agent/guest/main.ts", "../../hypervisor/interface.ts"],
    ["agent/client/client.ts", "../guest/main.ts"],
    ["sandbox/sandbox.ts", "../agent/guest/main.ts"],
    ["vm/vm.ts", "../../guest/build.ts"],
    ["strange/new.ts", "../errors.ts"],
  ])("%s may not import %s", (path, specifier) => {
    expect(reasonsOf(path, `import "${specifier}";\n`)).not.toEqual([]);
  });

  test.each([
    ["vm/vm-config.ts", "../hypervisor/interface.ts"],
    ["sandbox/sandbox.ts", "../factory/direct.ts"],
    ["errors.ts", "./util/wait.ts"],
    ["sandbox/sandbox.ts", "./record.ts"],
    ["main.ts", "./cli/runtime.ts"],
    ["cli/agent.ts", "../agent/guest/main.ts"],
    ["agent/guest/main.ts", "../../rpc/ttrpc/server.ts"],
    ["vm/vm.test.ts", "../sandbox/sandbox.ts"],
  ])("%s may import %s", (path, specifier) => {
    expect(reasonsOf(path, `import "${specifier}";\n`)).toEqual([]);
  });

  test("the longest prefix decides", () => {
    expect(placeOf("agent/guest/main.ts")?.unit).toBe("agent/guest");
    expect(placeOf("agent/other.ts")).toBeUndefined();
  });

  test("an import of what does not exist is a fault", () => {
    expect(checkFile({ path: "vm/a.ts", text: 'import "./b";\n' }, () => false)).toHaveLength(1);
  });
});

describe("owners", () => {
  test.each([
    ["vm/vm.ts", 'import * as grpc from "@grpc/grpc-js";'],
    ["oci/spec.ts", 'import { parse } from "smol-toml";'],
    ["sandbox/a.ts", 'import { dlopen } from "bun:ffi";'],
    ["sandbox/a.ts", 'import { spawn } from "node:child_process";'],
    ["sandbox/a.ts", 'import { spawn } from "child_process";'],
    ["sandbox/a.ts", "Bun.spawn([]);"],
    ["sandbox/a.ts", "await Bun.$`ls`;"],
    ["vmcache/a.ts", 'const { consola } = await import("consola");'],
  ])("%s: %s is a fault", (path, text) => {
    expect(reasonsOf(path, `${text}\n`)).toHaveLength(1);
  });

  test.each([
    ["rpc/grpc.ts", 'import * as grpc from "@grpc/grpc-js";'],
    ["rpc/grpc/server.ts", 'import * as grpc from "@grpc/grpc-js";'],
    ["config/parse.ts", 'import { parse } from "smol-toml";'],
    ["sys/libc.ts", 'import { dlopen } from "bun:ffi";'],
    ["sys/process.ts", "Bun.spawn([]);"],
    ["sandbox/a.ts", "// as Bun.spawn does"],
  ])("%s: %s is fine", (path, text) => {
    expect(reasonsOf(path, `${text}\n`)).toEqual([]);
  });
});

test("files have at most 500 lines, generated ones excepted", () => {
  const long = "x;\n".repeat(FILE_LINES_MAX + 1);
  expect(reasonsOf("vm/long.ts", long)).toHaveLength(1);
  expect(reasonsOf("gen/long_pb.ts", long)).toEqual([]);
});
