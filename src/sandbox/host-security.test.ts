import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ProfileTree } from "../../test/harness/apparmor.ts";
import { type Scratch, scratch } from "../../test/harness/scratch.ts";
import { APPARMOR_PROFILE_BYTES_MAX } from "../limits.ts";
import { hostSecurity } from "./host-security.ts";

let sys: Scratch;
beforeEach(() => {
  sys = scratch();
});
afterEach(() => {
  sys[Symbol.dispose]();
});

const BINARY = new Uint8Array([4, 8, 0]);
const read = (name: string) => hostSecurity(sys.dir).apparmorProfile(name);

test("a profile is found by its name, whatever its directory is called", () => {
  const tree = new ProfileTree(sys.dir);
  tree.load("default", new Uint8Array([1]));
  tree.load("default.0", BINARY);
  tree.load("/usr/bin/a b", BINARY);
  for (const name of ["default.0", "/usr/bin/a b"]) expect(read(name)).toEqual({ name, binary: BINARY });
  expect(read("default").binary).toEqual(new Uint8Array([1]));
});

test("one that the kernel keeps to itself, of which it may not even tell the name", () => {
  const tree = new ProfileTree(sys.dir);
  tree.load("x", undefined);
  expect(read("x")).toEqual({ name: "x", binary: undefined });
  rmSync(sys.path("kernel/security/apparmor/policy"), { recursive: true });
  expect(read("y")).toEqual({ name: "y", binary: undefined });
});

test("what is not there is an error in runc's words, and says what is missing", () => {
  const says = (why: string): void => {
    expect(() => read("x")).toThrow(`apparmor failed to apply profile x: ${why}`);
  };
  says("this host has no AppArmor");
  new ProfileTree(sys.dir).load("xx", BINARY);
  says("it is not loaded on this host");
  rmSync(sys.path("kernel/security/apparmor"), { recursive: true });
  says(`${sys.path("kernel/security/apparmor")} does not exist`);
  writeFileSync(sys.path("module/apparmor/parameters/enabled"), "N\n");
  says("this host has no AppArmor");
});

test("one that is replaced or removed while it is read is no hidden one", () => {
  const dir = new ProfileTree(sys.dir).load("x", undefined);
  symlinkSync("../gone/raw_data", join(dir, "raw_data"));
  expect(() => read("x")).toThrow("it is just being replaced or removed");
});

test("one that is too large for an RPC is refused before it is read", () => {
  const dir = new ProfileTree(sys.dir).load("x", BINARY);
  truncateSync(join(dir, "raw_data"), APPARMOR_PROFILE_BYTES_MAX + 1);
  expect(() => read("x")).toThrow(`${APPARMOR_PROFILE_BYTES_MAX + 1} bytes`);
});

test("SELinux is at work where its file system says so", () => {
  expect(hostSecurity(sys.dir).hasSelinux).toBe(false);
  mkdirSync(sys.path("fs/selinux"), { recursive: true });
  writeFileSync(sys.path("fs/selinux/enforce"), "1");
  expect(hostSecurity(sys.dir).hasSelinux).toBe(true);
});
