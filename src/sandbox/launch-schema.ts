/** What the sandbox process accepts from its spawner; the types are factory/base-factory.ts's. */
import * as v from "valibot";
import { LEASE_MS_MAX } from "../limits.ts";

const path = v.pipe(v.string(), v.startsWith("/"));
const count = v.pipe(v.number(), v.integer(), v.minValue(1));

const VmConfigSchema = v.strictObject({
  hypervisor: v.literal("qemu"),
  qemuPath: v.string(),
  machine: v.picklist(["q35", "pc"]),
  accel: v.picklist(["kvm", "tcg"]),
  kernel: path,
  initrd: path,
  image: path,
  guestDigest: v.string(),
  programsDigest: v.string(),
  hearthVersion: v.string(),
  kernelParams: v.array(v.string()),
  vcpus: count,
  maxVcpus: count,
  memoryMib: count,
  maxMemoryMib: count,
  sharedFs: v.picklist(["virtio-fs", "virtio-9p"]),
  virtiofsdPath: v.string(),
  transport: v.picklist(["virtio-serial", "vsock"]),
  seccomp: v.boolean(),
  bootTimeoutMs: count,
});

export const SandboxLaunchSchema = v.strictObject({
  vmId: v.pipe(v.string(), v.regex(/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$/)),
  runDir: path,
  config: VmConfigSchema,
  mode: v.picklist(["leased", "idle", "capture"]),
  template: v.exactOptional(
    v.strictObject({ kind: v.picklist(["copy-on-write", "copied"]), memory: path, state: path }),
  ),
  token: v.pipe(v.string(), v.minLength(16)),
  leaseMs: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(LEASE_MS_MAX)),
  logLevel: v.picklist(["debug", "info", "warn", "error"]),
  failAt: v.exactOptional(v.string()),
});
