import { describe, expect, test } from "bun:test";
import type { Spec } from "./spec.ts";
import { checkRules } from "./spec-rules.ts";

const spec = (changes: Partial<Spec>): Spec => ({ ociVersion: "1.0.2", ...changes });
const MAPPING = { containerID: 0, hostID: 0, size: 1 };
const user = { uid: 0, gid: 0 };
const limit = (type: string): { type: string; soft: number; hard: number } => ({ type, soft: 1, hard: 2 });

describe("refused, naming the property", () => {
  test.each<[string, Partial<Spec>]>([
    [
      "process.rlimits has RLIMIT_A more than once",
      { process: { cwd: "/", user, rlimits: [limit("RLIMIT_A"), limit("RLIMIT_A")] } },
    ],
    ["annotations has an empty key", { annotations: { "": "x" } }],
    ["linux.namespaces has pid more than once", { linux: { namespaces: [{ type: "pid" }, { type: "pid" }] } }],
    ['linux.rootfsPropagation "bogus" is not known', { linux: { rootfsPropagation: "bogus" } }],
    ['"a/b" is no name of an interface', { linux: { netDevices: { "a/b": {} } } }],
    ['"sixteen_letters_" is no name', { linux: { netDevices: { eth0: { name: "sixteen_letters_" } } } }],
    ["linux.netDevices gives eth0 to more than one", { linux: { netDevices: { eth0: {}, eth1: { name: "eth0" } } } }],
    ["need a user namespace", { linux: { uidMappings: [MAPPING] } }],
    ["linux.seccomp.defaultAction is missing", { linux: { seccomp: {} } }],
    [
      "linux.seccomp.syscalls.1.names",
      {
        linux: {
          seccomp: {
            defaultAction: "A",
            syscalls: [
              { names: ["x"], action: "B" },
              { names: [], action: "B" },
            ],
          },
        },
      },
    ],
  ])("%s", (message, changes) => {
    expect(() => checkRules(spec(changes), "config.json")).toThrow(message);
  });
});

test("what the spec allows passes", () => {
  const process = { cwd: "/", user, rlimits: [limit("RLIMIT_A"), limit("RLIMIT_B")] };
  const linux = {
    namespaces: [{ type: "pid" }, { type: "user" }],
    uidMappings: [MAPPING],
    rootfsPropagation: "rslave",
    netDevices: { eth0: { name: "eth1" }, eth1: { name: "eth0" }, eth2: {} },
    seccomp: { defaultAction: "A", syscalls: [{ names: ["x"], action: "B" }] },
  };
  expect(() => checkRules(spec({ process, annotations: { a: "" }, linux }), "config.json")).not.toThrow();
});
