/**
 * The bound on what the VM of limited containers takes of the host's memory: its own memory, all of which a guest may touch, and
 * what QEMU, virtiofsd, sandbox process and shims need beside it. The limits themselves hold in the guest.
 */
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { toHearthError } from "../errors.ts";
import { VM_OVERHEAD_FIXED_MIB, VM_OVERHEAD_PERCENT } from "../limits.ts";
import { cgroupVersion } from "./cgroup.ts";
import { enableControllers } from "./host-limits.ts";

const MIB = 1024 * 1024;

/** Bytes of the host for a VM of so many MiB. */
export function hostMemoryBytes(vmMemoryMib: number): number {
  const overheadMib = VM_OVERHEAD_FIXED_MIB + Math.ceil((vmMemoryMib * VM_OVERHEAD_PERCENT) / 100);
  return (vmMemoryMib + overheadMib) * MIB;
}

/** The cgroups of a VM on the host, as far as memory is concerned. */
export class HostMemory {
  readonly #dirs: readonly string[];
  /** What we have written there; undefined before, and then whatever is there is not ours to change. */
  #bytes: number | "max" | undefined;

  constructor(dirs: readonly string[]) {
    this.#dirs = dirs;
  }

  /**
   * Bounds what is charged to the cgroups; undefined: no longer. To be called before the VM grows. False where the host has no such
   * limit. Fails when the kernel refuses it: in a cgroup that others use too, more may be in use already.
   */
  bound(vmMemoryMib: number | undefined): boolean {
    const bytes = vmMemoryMib === undefined ? "max" : hostMemoryBytes(vmMemoryMib);
    if (bytes === this.#bytes || (bytes === "max" && this.#bytes === undefined)) return true;
    const path = limitFile(this.#dirs);
    if (path === undefined) return false;
    try {
      // Version 1 calls "no limit" -1.
      writeFileSync(path, bytes === "max" && path.endsWith(V1_FILE) ? "-1" : String(bytes));
    } catch (thrown) {
      throw toHearthError(thrown, `bound memory of VM to ${bytes} on the host`);
    }
    this.#bytes = bytes;
    return true;
  }
}

const V1_FILE = "memory.limit_in_bytes";
const V2_FILE = "memory.max";

/** What a directory of a cgroup says of memory. */
export interface MemoryFiles {
  readonly dir: string;
  /** Name of the file of its limit, in bytes. */
  readonly limit: string;
  /** And of what is in use, in bytes. */
  readonly usage: string;
}

/** Of the one among the directories that memory is counted in. */
export function memoryFilesOf(dirs: readonly string[]): MemoryFiles | undefined {
  return dirs
    .flatMap((dir) => [
      { dir, limit: V1_FILE, usage: "memory.usage_in_bytes" },
      { dir, limit: V2_FILE, usage: "memory.current" },
    ])
    .find(({ dir, limit }) => existsSync(join(dir, limit)));
}

function limitFile(dirs: readonly string[]): string | undefined {
  if (cgroupVersion(dirs) === 2) for (const dir of dirs) enableControllers(dir);
  const files = memoryFilesOf(dirs);
  return files && join(files.dir, files.limit);
}
