/** The VMs of a run directory as their records show them. */
import { vmPaths } from "../paths.ts";
import { isAlive } from "../sys/process-identity.ts";
import { vmIds } from "../vm/collect.ts";
import { readVmRecord, type VmRecord } from "../vm/vm-record.ts";

/** Those in one of the states whose sandbox process lives. A record that cannot be read is somebody else's trouble. */
export function livingVms(runDir: string, states: readonly VmRecord["state"][]): VmRecord[] {
  return vmIds(runDir).flatMap((vmId) => {
    try {
      const record = readVmRecord(vmPaths(runDir, vmId).record);
      return record !== undefined && states.includes(record.state) && isAlive(record.sandbox) ? [record] : [];
    } catch {
      return [];
    }
  });
}
