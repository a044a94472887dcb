import { expect, test } from "bun:test";
import type { HostSecurity } from "./host-security.ts";
import { labelledProcess } from "./process-labels.ts";

const BINARY = new Uint8Array([1]);
const host: HostSecurity = {
  hasSelinux: false,
  apparmorProfile: (name) => ({ name, binary: name === "hidden" ? undefined : BINARY }),
};
const bare = { args: ["x"], cwd: "/", user: { uid: 0, gid: 0 } };

function label(changes: object, isConfined = false, security = host) {
  const warnings: string[] = [];
  const { process, profiles } = labelledProcess({ ...bare, ...changes }, security, isConfined, warnings);
  return { process, names: profiles.map(({ name }) => name), warnings };
}

test.each([
  ["one", "docker-default", ["docker-default"]],
  ["a child comes with its parent", "a//b", ["a"]],
  ["of a stack all", "a//&b//c//&a", ["a", "b"]],
  ["unconfined is none", "a//&unconfined", ["a"]],
])("profiles that the guest has to have: %s", (_what, apparmorProfile, names) => {
  expect(label({ apparmorProfile })).toEqual({ process: { ...bare, apparmorProfile }, names, warnings: [] });
});

test("none and unconfined are nothing, but where the container has one", () => {
  for (const apparmorProfile of ["", "unconfined"]) {
    expect(label({ apparmorProfile })).toEqual({ process: bare, names: [], warnings: [] });
  }
  expect(label({ apparmorProfile: "" }, true).process).toEqual(bare);
  const apparmorProfile = "unconfined";
  expect(label({ apparmorProfile }, true)).toEqual({ process: { ...bare, apparmorProfile }, names: [], warnings: [] });
});

test("one that the host's kernel keeps to itself is left out, with a warning", () => {
  expect(label({ apparmorProfile: "a//&hidden" })).toEqual({
    process: bare,
    names: [],
    warnings: [expect.stringContaining("process.apparmorProfile a//&hidden is not applied")],
  });
});

test("one of a policy namespace is refused", () => {
  expect(() => label({ apparmorProfile: ":ns:a" })).toThrow("it is in a policy namespace of the host");
});

test("an SELinux label is refused as by runc where the host has no SELinux, else a warning", () => {
  expect(() => label({ selinuxLabel: "l" })).toThrow("process.selinuxLabel: selinux is disabled or not supported");
  expect(label({ selinuxLabel: "l" }, false, { ...host, hasSelinux: true })).toEqual({
    process: bare,
    names: [],
    warnings: [expect.stringContaining("process.selinuxLabel l is not applied")],
  });
});
