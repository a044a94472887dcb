/** What the VMs of a run directory cost in memory, measured rarely. */
import { MEMORY_SAMPLE_MS } from "../limits.ts";
import { proportionalSetBytes } from "../sys/memory.ts";
import type { VmRecord } from "../vm/vm-record.ts";
import { livingVms } from "./living-vms.ts";

export interface VmMemory {
  readonly state: VmRecord["state"];
  readonly process: "sandbox" | "qemu" | "virtiofsd";
  /** Of all such processes together. */
  readonly bytes: number;
}

export const MEASURED_STATES = ["idle", "leased", "adopted"] as const satisfies readonly VmRecord["state"][];

export class VmMemorySampler {
  readonly #runDir: string;
  #last: { readonly atMs: number; readonly memory: Promise<readonly VmMemory[]> } | undefined;

  constructor(runDir: string) {
    this.#runDir = runDir;
  }

  /** Measured now, or what was measured less than MEMORY_SAMPLE_MS ago. */
  current(): Promise<readonly VmMemory[]> {
    const now = performance.now();
    if (this.#last === undefined || now - this.#last.atMs >= MEMORY_SAMPLE_MS) {
      const memory = measure(this.#runDir);
      this.#last = { atMs: now, memory };
      // A failure is told to whoever asked, and does not stand.
      memory.catch(() => {
        this.#last = undefined;
      });
    }
    return this.#last.memory;
  }
}

/** One process after another: the pool has better things to do at the same time. */
async function measure(runDir: string): Promise<VmMemory[]> {
  const totals = new Map<string, VmMemory>();
  for (const record of livingVms(runDir, MEASURED_STATES)) {
    const [qemu, ...virtiofsd] = record.processes;
    const processes = [
      { process: "sandbox" as const, pid: record.sandbox.pid },
      ...(qemu === undefined ? [] : [{ process: "qemu" as const, pid: qemu.pid }]),
      ...virtiofsd.map(({ pid }) => ({ process: "virtiofsd" as const, pid })),
    ];
    for (const { process, pid } of processes) {
      const { state } = record;
      const before = totals.get(`${state} ${process}`)?.bytes ?? 0;
      totals.set(`${state} ${process}`, { state, process, bytes: before + (await proportionalSetBytes(pid)) });
    }
  }
  return [...totals.values()];
}
