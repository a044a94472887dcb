/** System call filters compiled by libseccomp, which this program carries. Source: seccomp_init(3) and its neighbours. */
import { dlopen, type Library, type Pointer } from "bun:ffi";
import { fstatSync, readFileSync, readSync, writeSync } from "node:fs";
import { join, resolve } from "node:path";
import { HearthError, SystemError } from "../errors.ts";
import { EMBEDDED_LIBRARY_DIR, EMBEDDED_ROOT, SECCOMP_LIBRARY } from "../paths.ts";
import { cString, errnoName, struct } from "./libc.ts";
import { memoryFile } from "./memory-file.ts";

const SYMBOLS = {
  seccomp_init: { args: ["u32"], returns: "ptr" },
  seccomp_release: { args: ["ptr"], returns: "void" },
  seccomp_arch_resolve_name: { args: ["ptr"], returns: "u32" },
  seccomp_arch_add: { args: ["ptr", "u32"], returns: "i32" },
  seccomp_syscall_resolve_name_arch: { args: ["u32", "ptr"], returns: "i32" },
  seccomp_rule_add_array: { args: ["ptr", "u32", "i32", "u32", "ptr"], returns: "i32" },
  seccomp_export_bpf: { args: ["ptr", "i32"], returns: "i32" },
} as const;

/** The architecture of the machine, beside the number that it has as well. Source: seccomp.h. */
export const SCMP_ARCH_NATIVE = 0;
const NR_SCMP_ERROR = -1;
const EEXIST = 17;
/** struct scmp_arg_cmp: u32 arg, int op, u64 datum_a, u64 datum_b. */
const COMPARISON_BYTES = 24;

/** Of one argument of a call, from 0 to 5; `operator` is an enum scmp_compare. */
export interface Comparison {
  readonly index: number;
  readonly operator: number;
  readonly value: bigint;
  readonly valueTwo: bigint;
}

let bound: Library<typeof SYMBOLS>["symbols"] | undefined;

/** Opened from memory: what the executable carries is no file that the loader can open. About 1 ms, once. */
function library(): Library<typeof SYMBOLS>["symbols"] {
  if (bound !== undefined) return bound;
  const dir = import.meta.path.startsWith("/$bunfs/") ? EMBEDDED_ROOT : resolve(import.meta.dir, "../../build/embed");
  using memory = memoryFile(SECCOMP_LIBRARY);
  writeSync(memory.fd, readFileSync(join(dir, EMBEDDED_LIBRARY_DIR, SECCOMP_LIBRARY)));
  bound = dlopen(`/proc/self/fd/${memory.fd}`, SYMBOLS).symbols;
  return bound;
}

/** Number of an architecture by its name in lower case ("x86_64"); undefined for one that libseccomp does not know. */
export function architectureByName(name: string): number | undefined {
  const found = library().seccomp_arch_resolve_name(cString(name));
  return found === 0 ? undefined : found;
}

/**
 * Numbers of system calls, by name for each architecture; negative for one that the architecture has in another form
 * alone, none where libseccomp does not know the name.
 */
export function systemCallNumbers(
  architectures: readonly number[],
  names: ReadonlySet<string>,
): ReadonlyMap<number, ReadonlyMap<string, number>> {
  const { seccomp_syscall_resolve_name_arch: resolve } = library();
  const numbers = new Map(architectures.map((architecture) => [architecture, new Map<string, number>()]));
  for (const name of names) {
    const text = cString(name);
    for (const [architecture, known] of numbers) {
      const found = resolve(architecture, text);
      if (found !== NR_SCMP_ERROR) known.set(name, found);
    }
  }
  return numbers;
}

/** A filter in the making. Dispose of it when it is compiled. */
export class SeccompFilter implements Disposable {
  #context: Pointer | bigint | null;

  /** `action` is what is not in any rule gets, a SCMP_ACT_ number. */
  constructor(action: number) {
    this.#context = library().seccomp_init(action);
    if (this.#context === null) throw new HearthError("invalid-argument", `make seccomp filter: action ${action}`);
  }

  /** That of the machine is there from the beginning. */
  addArchitecture(architecture: number): void {
    const result = library().seccomp_arch_add(this.#context, architecture);
    if (result !== -EEXIST) checkNegative(result, `add architecture ${architecture} to seccomp filter`);
  }

  /** `syscall` is a number of the machine's own architecture; all comparisons have to be true, at most 6. */
  addRule(action: number, syscall: number, comparisons: readonly Comparison[]): void {
    const { bytes, view } = struct(Math.max(comparisons.length, 1) * COMPARISON_BYTES);
    for (const [position, { index, operator, value, valueTwo }] of comparisons.entries()) {
      const at = position * COMPARISON_BYTES;
      view.setUint32(at, index, true);
      view.setInt32(at + 4, operator, true);
      view.setBigUint64(at + 8, value, true);
      view.setBigUint64(at + 16, valueTwo, true);
    }
    const result = library().seccomp_rule_add_array(this.#context, action, syscall, comparisons.length, bytes);
    checkNegative(result, `add rule of system call ${syscall} to seccomp filter`);
  }

  /** Instructions of 8 bytes: struct sock_filter of linux/filter.h. */
  compile(): Uint8Array {
    using memory = memoryFile("seccomp.bpf");
    checkNegative(library().seccomp_export_bpf(this.#context, memory.fd), "compile seccomp filter");
    const program = new Uint8Array(fstatSync(memory.fd).size);
    readSync(memory.fd, program, 0, program.length, 0);
    return program;
  }

  [Symbol.dispose](): void {
    if (this.#context !== null) library().seccomp_release(this.#context);
    this.#context = null;
  }
}

/** libseccomp returns error numbers as the kernel does. */
function checkNegative(result: number, message: string): void {
  if (result < 0) throw new SystemError(errnoName(-result), message);
}
