/**
 * The filter of linux.seccomp where it has to be more than what the guest's crun makes of it: a system call newer than
 * every one that the profile names answers ENOSYS, as under runc. The default of engines' profiles is EPERM, on which
 * programs give up, while on ENOSYS the C library of an image that is newer than the profile does without the call.
 */
import * as v from "valibot";
import type { Spec } from "../oci/spec.ts";
import { struct } from "../sys/libc.ts";
import {
  architectureByName,
  type Comparison,
  SCMP_ARCH_NATIVE,
  SeccompFilter,
  systemCallNumbers,
} from "../sys/seccomp.ts";

/** crun takes a whole program in base64 from this annotation, in place of one of its own. Source: crun(1). */
const SECCOMP_PROGRAM_ANNOTATION = "run.oci.seccomp_bpf_data";

const u64 = v.union([
  v.pipe(
    v.number(),
    v.safeInteger(),
    v.minValue(0),
    v.transform((value) => BigInt(value)),
  ),
  v.pipe(v.bigint(), v.minValue(0n), v.maxValue(2n ** 64n - 1n)),
]);
const errno = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffff));
const ProfileSchema = v.object({
  defaultAction: v.string(),
  defaultErrnoRet: v.optional(errno),
  architectures: v.optional(v.array(v.string()), []),
  syscalls: v.optional(
    v.array(
      v.object({
        names: v.array(v.string()),
        action: v.string(),
        errnoRet: v.optional(errno),
        args: v.optional(
          v.pipe(
            v.array(
              v.object({
                index: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(5)),
                value: v.optional(u64, 0),
                valueTwo: v.optional(u64, 0),
                op: v.string(),
              }),
            ),
            v.maxLength(6),
          ),
          [],
        ),
      }),
    ),
    [],
  ),
});
type Rule = v.InferOutput<typeof ProfileSchema>["syscalls"][number];

const EPERM = 1;
const ENOSYS = 38;
/** Source: seccomp.h of libseccomp, whose actions are the kernel's return values. */
const ACTIONS: Readonly<Record<string, number>> = {
  SCMP_ACT_KILL: 0,
  SCMP_ACT_KILL_THREAD: 0,
  SCMP_ACT_KILL_PROCESS: 0x80000000,
  SCMP_ACT_TRAP: 0x00030000,
  SCMP_ACT_ERRNO: 0x00050000,
  SCMP_ACT_TRACE: 0x7ff00000,
  SCMP_ACT_LOG: 0x7ffc0000,
  SCMP_ACT_ALLOW: 0x7fff0000,
};
/** Actions with a number of the profile's own. */
const WITH_ERRNO: ReadonlySet<string> = new Set(["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"]);
/** Defaults under which a call that nobody has heard of takes place, or is its tracer's to answer. */
const PERMISSIVE: ReadonlySet<string> = new Set(["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"]);
const OPERATORS: Readonly<Record<string, number>> = {
  SCMP_CMP_NE: 1,
  SCMP_CMP_LT: 2,
  SCMP_CMP_LE: 3,
  SCMP_CMP_EQ: 4,
  SCMP_CMP_GE: 5,
  SCMP_CMP_GT: 6,
  SCMP_CMP_MASKED_EQ: 7,
};

/**
 * The program for a profile whose default is to refuse, by errno or worse; undefined for every other, and for one that is
 * not valid: those are crun's, its errors included.
 */
export function seccompProgram(seccomp: unknown): Uint8Array | undefined {
  const { success, output: profile } = v.safeParse(ProfileSchema, seccomp);
  if (!success || PERMISSIVE.has(profile.defaultAction) || profile.defaultErrnoRet === ENOSYS) return undefined;
  const architectures = architecturesOf(profile.architectures);
  const defaultAction = actionOf(profile.defaultAction, profile.defaultErrnoRet);
  if (architectures === undefined || defaultAction === undefined) return undefined;
  const names = new Set(profile.syscalls.flatMap((rule) => rule.names));
  const numbers = systemCallNumbers([SCMP_ARCH_NATIVE, ...architectures.values()], names);
  const native = numbers.get(SCMP_ARCH_NATIVE) ?? new Map<string, number>();
  using filter = new SeccompFilter(defaultAction);
  for (const architecture of architectures.values()) filter.addArchitecture(architecture);
  for (const rule of profile.syscalls) if (!addRule(filter, rule, defaultAction, native)) return undefined;
  const program = filter.compile();
  const newest = [...architectures].map(([name, number]) => [name, newestOf(numbers.get(number))] as const);
  const stub = enosysStub(new Map(newest));
  const whole = new Uint8Array(stub.length + program.length);
  whole.set(stub);
  whole.set(program, stub.length);
  return whole;
}

/** A configuration for the guest, with the program of its profile where that is not crun's to make. */
export function withSeccompProgram(config: Spec): Spec {
  const program = config.linux?.seccomp === undefined ? undefined : seccompProgram(config.linux.seccomp);
  if (program === undefined) return config;
  const annotations = { ...config.annotations, [SECCOMP_PROGRAM_ANNOTATION]: Buffer.from(program).toString("base64") };
  return { ...config, annotations };
}

function actionOf(name: string, errnoRet: number | undefined): number | undefined {
  const action = ACTIONS[name];
  if (action === undefined || (errnoRet !== undefined && !WITH_ERRNO.has(name))) return undefined;
  return WITH_ERRNO.has(name) ? action | (errnoRet ?? EPERM) : action;
}

/**
 * False for a rule that is not valid. `calls` are the machine's by name; a name that is not there counts for nothing, as
 * engines expect.
 */
function addRule(
  filter: SeccompFilter,
  rule: Rule,
  defaultAction: number,
  calls: ReadonlyMap<string, number>,
): boolean {
  const action = actionOf(rule.action, rule.errnoRet);
  const comparisons = rule.args.flatMap(({ index, value, valueTwo, op }): Comparison[] => {
    const operator = OPERATORS[op];
    return operator === undefined ? [] : [{ index, operator, value, valueTwo }];
  });
  if (action === undefined || comparisons.length < rule.args.length) return false;
  // libseccomp takes no rule that says what the default does.
  if (action === defaultAction) return true;
  const isTwice = new Set(comparisons.map(({ index }) => index)).size < comparisons.length;
  for (const name of rule.names) {
    const call = calls.get(name);
    if (call === undefined) continue;
    // It compares an argument once in a rule: several comparisons of one are alternatives, under runc too.
    if (isTwice) for (const comparison of comparisons) filter.addRule(action, call, [comparison]);
    else filter.addRule(action, call, comparisons);
  }
  return true;
}

/** Numbers by name; undefined without any of this family (runc then adds no ENOSYS either), or with one that nobody knows. */
function architecturesOf(names: readonly string[]): ReadonlyMap<string, number> | undefined {
  const architectures = new Map<string, number>();
  for (const architecture of names) {
    const name = architecture.replace(/^SCMP_ARCH_/, "").toLowerCase();
    const number = architectureByName(name);
    if (number === undefined) return undefined;
    // Of a profile for several machines: no call is ever made by the others' here.
    if (FAMILY.has(name)) architectures.set(name, number);
  }
  return architectures.size === 0 ? undefined : architectures;
}

/** 0 without any. */
function newestOf(calls: ReadonlyMap<string, number> | undefined): number {
  return Math.max(0, ...(calls?.values() ?? []));
}

const FAMILY: ReadonlySet<string> = new Set(["x86_64", "x86", "x32"]);

/** Source: linux/audit.h, asm/unistd.h, linux/bpf_common.h, linux/seccomp.h. */
const AUDIT_ARCH_X86_64 = 0xc000003e;
const AUDIT_ARCH_I386 = 0x40000003;
const X32_SYSCALL_BIT = 0x40000000;
const LOAD_WORD = 0x20;
const JUMP_EQUAL = 0x15;
const JUMP_GREATER = 0x25;
const JUMP_BITS = 0x45;
const RETURN = 0x06;
const OFFSET_OF_CALL = 0;
const OFFSET_OF_ARCHITECTURE = 4;
const SECCOMP_RET_ERRNO = 0x00050000;
/** Of a struct sock_filter: u16 code, u8 jt, u8 jf, u32 k. */
const INSTRUCTION_BYTES = 8;
/** No number is above it. */
const NEVER = 0xffffffff;

/**
 * Instructions before the filter's own, which go on to it but for calls above the newest one of their architecture: those
 * return ENOSYS.
 */
function enosysStub(newest: ReadonlyMap<string, number>): Uint8Array {
  const above = (architecture: string): number => newest.get(architecture) || NEVER;
  // Code, the instructions it leads to when true and when false, constant; number 9 answers, 10 is the filter.
  const instructions: readonly (readonly [number, number, number, number])[] = [
    [LOAD_WORD, 1, 1, OFFSET_OF_ARCHITECTURE],
    [JUMP_EQUAL, 2, 6, AUDIT_ARCH_X86_64],
    [LOAD_WORD, 3, 3, OFFSET_OF_CALL],
    [JUMP_BITS, 5, 4, X32_SYSCALL_BIT],
    [JUMP_GREATER, 9, 10, above("x86_64")],
    [JUMP_GREATER, 9, 10, above("x32")],
    [JUMP_EQUAL, 7, 10, AUDIT_ARCH_I386],
    [LOAD_WORD, 8, 8, OFFSET_OF_CALL],
    [JUMP_GREATER, 9, 10, above("x86")],
    [RETURN, 10, 10, SECCOMP_RET_ERRNO | ENOSYS],
  ];
  const { bytes, view } = struct(instructions.length * INSTRUCTION_BYTES);
  for (const [position, [code, whenTrue, whenFalse, constant]] of instructions.entries()) {
    const at = position * INSTRUCTION_BYTES;
    view.setUint16(at, code, true);
    view.setUint8(at + 2, whenTrue - position - 1);
    view.setUint8(at + 3, whenFalse - position - 1);
    view.setUint32(at + 4, constant, true);
  }
  return bytes;
}
