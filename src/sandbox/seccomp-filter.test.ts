import { describe, expect, test } from "bun:test";
import { seccompProgram, withSeccompProgram } from "./seccomp-filter.ts";

const ARCHITECTURES = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
const X86_64 = 0xc000003e;
const I386 = 0x40000003;
const X32 = 0x40000000;
const ALLOW = 0x7fff0000;
const ERRNO = 0x00050000;
const EPERM = 1;
const ENOSYS = 38;

/** As engines' profiles are: openat2 (437 everywhere) is the newest call, clone is allowed without new user namespaces. */
const PROFILE = {
  defaultAction: "SCMP_ACT_ERRNO",
  architectures: ARCHITECTURES,
  syscalls: [
    { names: ["read", "openat2", "no_such_call"], action: "SCMP_ACT_ALLOW" },
    {
      names: ["clone"],
      action: "SCMP_ACT_ALLOW",
      args: [{ index: 0, value: 0x10000000, valueTwo: 0, op: "SCMP_CMP_MASKED_EQ" }],
    },
    { names: ["ptrace"], action: "SCMP_ACT_ERRNO", errnoRet: 2 },
  ],
};

/** What the kernel would do with a call. Source: Documentation/networking/filter.rst. */
function verdict(program: Uint8Array, call: number, options: { architecture?: number; first?: bigint } = {}): number {
  const instructions = new DataView(program.buffer, program.byteOffset, program.byteLength);
  const data = new DataView(new ArrayBuffer(64));
  data.setUint32(0, call, true);
  data.setUint32(4, options.architecture ?? X86_64, true);
  data.setBigUint64(16, options.first ?? 0n, true);
  let accumulator = 0;
  for (let at = 0; ; ) {
    const code = instructions.getUint16(at * 8, true);
    const constant = instructions.getUint32(at * 8 + 4, true);
    const jump = (truth: boolean): number => instructions.getUint8(at * 8 + (truth ? 2 : 3));
    let skipped = 0;
    if (code === 0x06) return constant;
    if (code === 0x20) accumulator = data.getUint32(constant, true);
    else if (code === 0x54) accumulator = (accumulator & constant) >>> 0;
    else if (code === 0x05) skipped = constant;
    else if (code === 0x15) skipped = jump(accumulator === constant);
    else if (code === 0x25) skipped = jump(accumulator > constant);
    else if (code === 0x35) skipped = jump(accumulator >= constant);
    else if (code === 0x45) skipped = jump((accumulator & constant) !== 0);
    else throw new Error(`instruction ${code.toString(16)}`);
    at += 1 + skipped;
  }
}

function compiled(profile: unknown): Uint8Array {
  const program = seccompProgram(profile);
  if (program === undefined) throw new Error("left to crun");
  return program;
}

test("a profile for several machines is the same here as one for this machine alone", () => {
  const architectures = [...ARCHITECTURES, "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
  expect(compiled({ ...PROFILE, architectures })).toEqual(compiled(PROFILE));
  expect(seccompProgram({ ...PROFILE, architectures: [...ARCHITECTURES, "SCMP_ARCH_NONE"] })).toBeUndefined();
});

describe("a profile that refuses by default", () => {
  test.each([
    ["x86_64", X86_64, 0, 437, 437],
    // Its ptrace has a number of its own.
    ["x32", X86_64, X32, X32 + 437, X32 + 521],
    ["i386", I386, 3, 437, 437],
  ])(
    "%s: ENOSYS above the newest call that it names, its default below",
    (_name, architecture, read, openat2, newest) => {
      const program = compiled(PROFILE);
      const of = (call: number) => verdict(program, call, { architecture });
      expect(of(read)).toBe(ALLOW);
      expect(of(openat2)).toBe(ALLOW);
      expect(of(openat2 - 1)).toBe(ERRNO | EPERM);
      expect(of(newest + 1)).toBe(ERRNO | ENOSYS);
      expect(of(newest + 1000)).toBe(ERRNO | ENOSYS);
    },
  );

  test("arguments and errors of the profile's own stay as they are", () => {
    const program = compiled(PROFILE);
    expect(verdict(program, 56, { first: 0x11n })).toBe(ALLOW);
    expect(verdict(program, 56, { first: 0x10000011n })).toBe(ERRNO | EPERM);
    expect(verdict(program, 101)).toBe(ERRNO | 2);
  });

  test("several comparisons of one argument are alternatives; of different ones, all have to be true", () => {
    const personality = (args: readonly object[]) =>
      compiled({ ...PROFILE, syscalls: [{ names: ["personality"], action: "SCMP_ACT_ALLOW", args }] });
    const equals = (index: number, value: number | bigint) => ({ index, value, op: "SCMP_CMP_EQ" });
    const either = personality([equals(0, 8), equals(0, 0xffffffffn)]);
    expect([0n, 8n, 0xffffffffn].map((first) => verdict(either, 135, { first }))).toEqual([
      ERRNO | EPERM,
      ALLOW,
      ALLOW,
    ]);
    const both = personality([equals(0, 8), equals(1, 7)]);
    expect(verdict(both, 135, { first: 8n })).toBe(ERRNO | EPERM);
  });

  test("killing defaults too; an architecture that the profile does not have is not asked", () => {
    const program = compiled({
      ...PROFILE,
      defaultAction: "SCMP_ACT_KILL_PROCESS",
      architectures: ["SCMP_ARCH_X86_64"],
    });
    expect(verdict(program, 437)).toBe(ALLOW);
    expect(verdict(program, 436)).toBe(0x80000000);
    expect(verdict(program, 438)).toBe(ERRNO | ENOSYS);
    expect(verdict(program, 999, { architecture: I386 })).toBe(0);
  });
});

describe("left to crun", () => {
  test.each<[string, object]>([
    ["a permissive default", { defaultAction: "SCMP_ACT_ALLOW" }],
    ["a default of ENOSYS", { defaultErrnoRet: ENOSYS }],
    ["no architecture", { architectures: [] }],
    ["an architecture of other machines", { architectures: ["SCMP_ARCH_AARCH64"] }],
    ["an unknown default", { defaultAction: "SCMP_ACT_BOGUS" }],
    ["an unknown action", { syscalls: [{ names: ["read"], action: "SCMP_ACT_BOGUS" }] }],
    [
      "an errno that the action does not take",
      { syscalls: [{ names: ["read"], action: "SCMP_ACT_LOG", errnoRet: 1 }] },
    ],
    [
      "an unknown operator",
      { syscalls: [{ names: ["read"], action: "SCMP_ACT_LOG", args: [{ index: 0, op: "EQ" }] }] },
    ],
    ["a seventh argument", { syscalls: [{ names: ["read"], action: "SCMP_ACT_LOG", args: [{ index: 6, op: "EQ" }] }] }],
  ])("%s", (_what, members) => {
    expect(seccompProgram({ ...PROFILE, ...members })).toBeUndefined();
  });

  test("a configuration without a profile, or with one of crun's, is as it was", () => {
    const config = { ociVersion: "1.0.2", annotations: { a: "b" } };
    expect(withSeccompProgram(config)).toBe(config);
    const { annotations = {} } = withSeccompProgram({ ...config, linux: { seccomp: PROFILE } });
    expect(annotations["a"]).toBe("b");
    expect(Buffer.from(annotations["run.oci.seccomp_bpf_data"] ?? "", "base64")).toEqual(
      Buffer.from(compiled(PROFILE)),
    );
  });
});
