/** The record of a living VM, `<runDir>/vm/<vmId>/vm.json`: enough to find, check, hand over and re-adopt it. */
import * as v from "valibot";
import { HearthError } from "../errors.ts";

export const VM_RECORD_VERSION = 1;

const ProcessIdentity = v.strictObject({
  pid: v.pipe(v.number(), v.integer(), v.minValue(1)),
  /** Clock ticks since boot, decimal; a pid alone may have been used again. Source: proc(5), stat field 22. */
  startTime: v.pipe(v.string(), v.regex(/^\d+$/)),
});

const VmRecordSchema = v.looseObject({
  version: v.literal(VM_RECORD_VERSION),
  vmId: v.string(),
  state: v.picklist(["idle", "leased", "adopted", "ending"]),
  /** Hex digest; VMs of equal identity are interchangeable. */
  identity: v.string(),
  guestDigest: v.string(),
  hypervisor: v.literal("qemu"),
  sandbox: ProcessIdentity,
  qemu: ProcessIdentity,
  virtiofsd: v.optional(ProcessIdentity),
  sandboxSocket: v.string(),
  qmpSocket: v.string(),
  agentSocket: v.string(),
  vcpus: v.pipe(v.number(), v.integer(), v.minValue(1)),
  /** MiB. */
  memoryMib: v.pipe(v.number(), v.integer(), v.minValue(1)),
  sharedFs: v.picklist(["virtio-fs", "virtio-9p"]),
  /** Milliseconds since the epoch. */
  readyAtMs: v.number(),
  containers: v.array(v.string()),
});

export type VmRecord = v.InferOutput<typeof VmRecordSchema>;

/** Fails with invalid-argument, naming the first field that is wrong. Unknown fields pass. */
export function parseVmRecord(text: string, source: string): VmRecord {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new HearthError("invalid-argument", `read VM record ${source}: not JSON`, { cause });
  }
  const result = v.safeParse(VmRecordSchema, json);
  if (result.success) return result.output;
  const issue = result.issues[0];
  throw new HearthError("invalid-argument", `read VM record ${source}: ${v.getDotPath(issue) ?? ""} ${issue.message}`);
}
