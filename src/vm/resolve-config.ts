/** From the operator's configuration to the VM it means on this host: every "auto" decided, every file found. */
import { createHash } from "node:crypto";
import { statSync } from "node:fs";
import type { HearthConfig } from "../config/config.ts";
import { HearthError, toHearthError } from "../errors.ts";
import type { Log } from "../log.ts";
import { COMMIT, VERSION } from "../version.ts";
import { ensureGuestAssets, type GuestAssets } from "./guest-assets.ts";
import {
  findVirtiofsd,
  hostCpus,
  hostMemoryMib,
  isExecutable,
  kvmSupport,
  type Support,
  vsockSupport,
} from "./host.ts";
import type { VmConfig } from "./vm-config.ts";

/** What is asked of the host; a parameter so that every answer can be tested. */
export interface HostFacts {
  readonly kvm: Support;
  readonly vsock: Support;
  readonly cpus: number;
  readonly memoryMib: number;
  readonly virtiofsd: string | undefined;
  readonly isExecutable: (path: string) => boolean;
  /** Tells a file from the one that takes its place, without reading it. Fails with not-found. */
  readonly stampOf: (path: string) => string;
}

export function readHostFacts(): HostFacts {
  return {
    kvm: kvmSupport(),
    vsock: vsockSupport(),
    cpus: hostCpus(),
    memoryMib: hostMemoryMib(),
    virtiofsd: findVirtiofsd(),
    isExecutable,
    stampOf: fileStamp,
  };
}

/** Unpacks the carried guest when it is needed. Errors: "not-found" for a missing program or file, naming the key. */
export async function resolveVmConfig(config: HearthConfig, log: Log): Promise<VmConfig> {
  const host = readHostFacts();
  checkHost(config, host);
  return toVmConfig(config, await guestFiles(config, log), host, log);
}

/** Kernel, initrd and image, and what distinguishes them from others. */
export type GuestFiles = Pick<GuestAssets, "kernel" | "initrd" | "image" | "digest">;

/** Pure but for the log: one warning when software emulation was not chosen but is all there is. */
export function toVmConfig(config: HearthConfig, guest: GuestFiles, host: HostFacts, log: Log): VmConfig {
  const { hypervisor, factory } = config;
  const maxVcpus = hypervisor.default_maxvcpus || Math.min(host.cpus, VCPUS_MAX);
  const maxMemoryMib = hypervisor.default_maxmemory || host.memoryMib;
  // The bounds are the same for VMs of every size: any of them may be asked to stand in for a larger one.
  const vcpus = [hypervisor.default_vcpus, ...factory.vm_cache_shapes.map((shape) => shape.vcpus)];
  const memoryMib = [hypervisor.default_memory, ...factory.vm_cache_shapes.map((shape) => shape.memory)];
  const usesVirtioFs = hypervisor.shared_fs === "virtio-fs";
  const virtiofsdPath = usesVirtioFs ? hypervisor.virtio_fs_daemon || (host.virtiofsd ?? "") : "";
  const programs = [hypervisor.path, virtiofsdPath].filter((path) => path !== "");
  return {
    hypervisor: "qemu",
    qemuPath: hypervisor.path,
    machine: hypervisor.machine_type,
    accel: accelerator(hypervisor.accel, host.kvm, log),
    kernel: guest.kernel,
    initrd: guest.initrd,
    image: guest.image,
    guestDigest: guest.digest,
    programsDigest: digestOf(programs.map(host.stampOf)),
    hearthVersion: `${VERSION} ${COMMIT}`,
    kernelParams: hypervisor.kernel_params.split(/\s+/).filter((param) => param !== ""),
    vcpus: hypervisor.default_vcpus,
    maxVcpus: Math.max(maxVcpus, ...vcpus),
    memoryMib: hypervisor.default_memory,
    maxMemoryMib: Math.max(wholeBlocks(maxMemoryMib), ...memoryMib),
    sharedFs: hypervisor.shared_fs,
    virtiofsdPath,
    transport: transport(hypervisor.transport, host.vsock),
    seccomp: hypervisor.seccomp_sandbox,
    bootTimeoutMs: hypervisor.boot_timeout_ms,
  };
}

/** Over vsock a connection has a beginning and an end of its own, and no program in between: it is preferred where it is. */
function transport(wanted: "auto" | "virtio-serial" | "vsock", vsock: Support): "virtio-serial" | "vsock" {
  if (wanted !== "auto") return wanted;
  return vsock.usable ? "vsock" : "virtio-serial";
}

/** QEMU's q35 and pc take at most this many without further options. Source: hw/i386/pc_q35.c, max_cpus. */
const VCPUS_MAX = 240;
/** MiB that Linux plugs at once on x86. Source: memory hot-plug documentation, section size. */
const MEMORY_BLOCK_MIB = 128;

function wholeBlocks(mib: number): number {
  return Math.floor(mib / MEMORY_BLOCK_MIB) * MEMORY_BLOCK_MIB;
}

function accelerator(wanted: "auto" | "kvm" | "tcg", kvm: Support, log: Log): "kvm" | "tcg" {
  if (wanted !== "auto") return wanted;
  if (kvm.usable) return "kvm";
  log.warn("no KVM, VMs are emulated and slow", { reason: kvm.reason });
  return "tcg";
}

/** Fails when this host lacks a program (not-found) or the accelerator that the configuration insists on. */
export function checkHost({ hypervisor }: Pick<HearthConfig, "hypervisor">, host: HostFacts): void {
  if (!host.isExecutable(hypervisor.path)) {
    throw new HearthError("not-found", `find QEMU ${hypervisor.path}: no such program`, {
      hint: "install QEMU or set path in [hypervisor.qemu]",
    });
  }
  if (hypervisor.accel === "kvm" && !host.kvm.usable) {
    throw new HearthError("failed-precondition", `use KVM: ${host.kvm.reason}`, {
      hint: 'set accel = "auto" or "tcg" in [hypervisor.qemu]',
    });
  }
  checkTransport({ hypervisor }, host);
  checkSharedFs({ hypervisor }, host);
}

/** Fails with failed-precondition when vsock is insisted on and this host has none. Returns what will be used. */
export function checkTransport(
  { hypervisor }: Pick<HearthConfig, "hypervisor">,
  host: Pick<HostFacts, "vsock">,
): "virtio-serial" | "vsock" {
  if (hypervisor.transport === "vsock" && !host.vsock.usable) {
    throw new HearthError("failed-precondition", `use transport vsock: ${host.vsock.reason}`, {
      hint: 'load the module vhost_vsock, or set transport = "auto" in [hypervisor.qemu]',
    });
  }
  return transport(hypervisor.transport, host.vsock);
}

/** Fails with not-found when virtiofsd is wanted and missing. */
export function checkSharedFs({ hypervisor }: Pick<HearthConfig, "hypervisor">, host: HostFacts): void {
  if (hypervisor.shared_fs !== "virtio-fs") return;
  const daemon = hypervisor.virtio_fs_daemon || host.virtiofsd;
  if (daemon === undefined || !host.isExecutable(daemon)) {
    throw new HearthError("not-found", `find virtiofsd${daemon === undefined ? "" : ` ${daemon}`}: no such program`, {
      hint: 'install virtiofsd, or set virtio_fs_daemon or shared_fs = "virtio-9p" in [hypervisor.qemu]',
    });
  }
}

/** The carried guest, or what the configuration puts in its place: all three files, which loading it has checked. */
async function guestFiles({ hypervisor, runtime }: HearthConfig, log: Log): Promise<GuestFiles> {
  const own = { kernel: hypervisor.kernel, initrd: hypervisor.initrd, image: hypervisor.image };
  if (own.kernel === "") return await ensureGuestAssets(runtime.data_dir, log);
  return {
    ...own,
    digest: digestOf(
      Object.entries(own).map(([key, path]) => `${key} ${fileStamp(path, `${key} of [hypervisor.qemu] ${path}`)}`),
    ),
  };
}

/** Identifies a file without reading its hundred megabytes at every start. `name` is for the message when it is not there. */
export function fileStamp(path: string, name: string = path): string {
  try {
    const { dev, ino, size, mtimeNs } = statSync(path, { bigint: true });
    return `${dev}:${ino} ${size} ${mtimeNs}`;
  } catch (thrown) {
    throw toHearthError(thrown, `find ${name}`);
  }
}

function digestOf(lines: readonly string[]): string {
  return createHash("sha256").update(lines.join("\n")).digest("hex");
}
