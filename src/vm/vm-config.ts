/** The configuration of a VM and its identity: two VMs of equal identity are interchangeable. */
import { createHash } from "node:crypto";

/** Everything a VM is made from. Paths absolute, sizes in MiB. */
export interface VmConfig {
  readonly hypervisor: "qemu";
  readonly qemuPath: string;
  readonly machine: "q35" | "pc";
  readonly accel: "kvm" | "tcg";
  readonly kernel: string;
  readonly initrd: string;
  readonly image: string;
  /** Digest of kernel, initrd and image together. */
  readonly guestDigest: string;
  /** Digest of QEMU and virtiofsd as they are on disk. */
  readonly programsDigest: string;
  /** Version and commit of the hearth that boots it: agent and sandbox process must fit each other. */
  readonly hearthVersion: string;
  readonly kernelParams: readonly string[];
  readonly vcpus: number;
  readonly maxVcpus: number;
  readonly memoryMib: number;
  readonly maxMemoryMib: number;
  readonly sharedFs: "virtio-fs" | "virtio-9p";
  readonly virtiofsdPath: string;
  readonly transport: "virtio-serial" | "vsock";
  readonly seccomp: boolean;
  readonly bootTimeoutMs: number;
}

/** For each field whether it is part of the identity, and why not when it is not. A test checks that none is missing. */
export const IDENTITY_FIELDS: { readonly [Field in keyof VmConfig]: boolean } = {
  hypervisor: true,
  qemuPath: true,
  machine: true,
  accel: true,
  // The paths may differ; what is in the files decides.
  kernel: false,
  initrd: false,
  image: false,
  guestDigest: true,
  programsDigest: true,
  hearthVersion: true,
  kernelParams: true,
  // A VM with less can be grown, but two sizes are two shapes of the pool.
  vcpus: true,
  maxVcpus: true,
  memoryMib: true,
  maxMemoryMib: true,
  sharedFs: true,
  virtiofsdPath: true,
  transport: true,
  seccomp: true,
  // How long the owner waits does not change what it gets.
  bootTimeoutMs: false,
};

/** The part of the identity that a VM can be grown in: of the rest, nothing may differ. */
const SIZE_FIELDS: ReadonlySet<string> = new Set<keyof VmConfig>(["vcpus", "memoryMib"]);

/** MiB. */
export type VmSize = Pick<VmConfig, "vcpus" | "memoryMib">;

export type VmIdentity = { readonly [field: string]: string | number | boolean | readonly string[] };

/** The fields that make up the identity, sorted by name. */
export function identityOf(config: VmConfig): VmIdentity {
  const entries = Object.entries(config).filter(([field]) => IDENTITY_FIELDS[field as keyof VmConfig]);
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** The identity without the size. */
export function baseIdentityOf(identity: VmIdentity): VmIdentity {
  return Object.fromEntries(Object.entries(identity).filter(([field]) => !SIZE_FIELDS.has(field)));
}

/** Hex SHA-256 over the identity. */
export function identityDigest(config: VmConfig): string {
  return digestOf(identityOf(config));
}

/** Hex SHA-256 over everything but the size: VMs that agree in it can stand in for each other, grown if need be. */
export function baseIdentityDigest(config: VmConfig): string {
  return digestOf(baseIdentityOf(identityOf(config)));
}

function digestOf(identity: VmIdentity): string {
  return createHash("sha256").update(JSON.stringify(identity)).digest("hex");
}
