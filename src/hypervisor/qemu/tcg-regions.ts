/** Whether an emulating QEMU can take another vCPU: each one's thread needs a piece of the translation buffer. */
import { HearthError } from "../../errors.ts";
import type { QmpClient } from "./qmp/client.ts";
import { QmpError } from "./qmp/message.ts";

const MIB = 1024 * 1024;
/** Source: QEMU tcg/region.c, tcg_n_regions: at most 8 a vCPU, of at least 2 MiB where that is possible. */
const REGIONS_PER_VCPU_MAX = 8;
const REGION_BYTES_MIN = 2 * MIB;

/** Pieces that are certainly free, from the text of `info jit`; undefined when it does not say. */
export function freeTcgRegions(infoJit: string, vcpus: number, maxVcpus: number): number | undefined {
  const match = /gen code size\s+(\d+)\/(\d+)/.exec(infoJit);
  if (match === null) return undefined;
  const used = Number(match[1]);
  const total = Number(match[2]);
  let perVcpu = REGIONS_PER_VCPU_MAX;
  while (perVcpu > 1 && total / (maxVcpus * perVcpu) < REGION_BYTES_MIN) perVcpu--;
  const count = maxVcpus * perVcpu;
  // Full ones, and one in use by each thread.
  const taken = Math.floor(used / (total / count)) + vcpus;
  return Math.max(0, count - taken);
}

export interface TcgThreads {
  readonly vcpus: number;
  readonly maxVcpus: number;
}

/** So many vCPUs could be plugged now, infinite where nothing is translated. Less than may be once the buffer was full and begun anew. */
export async function roomForVcpus(qmp: QmpClient, { vcpus, maxVcpus }: TcgThreads): Promise<number> {
  return freeTcgRegions(await infoJit(qmp), vcpus, maxVcpus) ?? Number.POSITIVE_INFINITY;
}

/**
 * Runs `plug` while the VM stands still, so that nobody takes the free piece meanwhile; "resource-exhausted" when there
 * is none. QEMU itself would abort: tcg/region.c, "tcg_region_initial_alloc__locked: assertion failed".
 */
export async function withFreeTcgRegions<T>(
  qmp: QmpClient,
  wanted: number,
  threads: TcgThreads,
  plug: () => Promise<T>,
): Promise<T> {
  const { running } = await qmp.run("query-status", {});
  if (running) await qmp.run("stop", {});
  try {
    const room = await roomForVcpus(qmp, threads);
    if (room < wanted) {
      throw new HearthError("resource-exhausted", `add ${wanted} vCPUs: the emulator has room for ${room}`, {
        hint: "give the VM its vCPUs at boot (default_vcpus)",
      });
    }
    return await plug();
  } finally {
    if (running) await qmp.run("cont", {});
  }
}

/** Empty under KVM, which knows no translation. */
async function infoJit(qmp: QmpClient): Promise<string> {
  try {
    return await qmp.run("human-monitor-command", { "command-line": "info jit" });
  } catch (thrown) {
    if (thrown instanceof QmpError) return "";
    throw thrown;
  }
}
