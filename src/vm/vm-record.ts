/** The record of a VM, `<runDir>/vm/<vmId>/vm.json`: enough to find it, hand it over, and end what its owner left behind. */
import { readFileSync } from "node:fs";
import * as v from "valibot";
import { HearthError, isNotFound, toHearthError } from "../errors.ts";
import { CID_MAX, CID_MIN } from "../sys/vsock.ts";

export const VM_RECORD_VERSION = 1;

const ProcessIdentitySchema = v.strictObject({
  pid: v.pipe(v.number(), v.integer(), v.minValue(2)),
  /** Clock ticks since boot: a pid alone may have been used again. Source: proc(5), stat field 22. */
  startTime: v.pipe(v.number(), v.integer(), v.minValue(0)),
});

const VmRecordSchema = v.looseObject({
  version: v.literal(VM_RECORD_VERSION),
  vmId: v.string(),
  state: v.picklist(["booting", "idle", "leased", "adopted", "ending"]),
  /** Hex digest; VMs of equal identity are interchangeable. */
  identity: v.string(),
  /** Hex digest over all but the size; empty in a record of before there was one. */
  baseIdentity: v.optional(v.string(), ""),
  guestDigest: v.string(),
  hypervisor: v.literal("qemu"),
  sandbox: ProcessIdentitySchema,
  /** QEMU and virtiofsd, as far as they have been started. */
  processes: v.array(ProcessIdentitySchema),
  sandboxSocket: v.string(),
  qmpSocket: v.string(),
  /** Where the guest's agent is reached: a socket of QEMU's, or over vsock. */
  agentAddress: v.variant("transport", [
    v.strictObject({ transport: v.literal("virtio-serial"), socket: v.string() }),
    v.strictObject({
      transport: v.literal("vsock"),
      cid: v.pipe(v.number(), v.integer(), v.minValue(CID_MIN), v.maxValue(CID_MAX)),
    }),
  ]),
  vcpus: v.pipe(v.number(), v.integer(), v.minValue(1)),
  /** MiB. */
  memoryMib: v.pipe(v.number(), v.integer(), v.minValue(1)),
  sharedFs: v.picklist(["virtio-fs", "virtio-9p"]),
  /** Made of a saved VM. Missing: no. */
  isClone: v.exactOptional(v.boolean()),
  /** Milliseconds since the epoch; 0 while it boots. */
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

/** Undefined when there is no such file. Fails as parseVmRecord. */
export function readVmRecord(path: string): VmRecord | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    if (isNotFound(cause)) return undefined;
    throw toHearthError(cause, `read VM record ${path}`);
  }
  return parseVmRecord(text, path);
}
