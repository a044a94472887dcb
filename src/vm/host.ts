/** What this host offers VMs: accelerator, CPUs, memory, virtiofsd. Every question is asked of the kernel or the disk. */
import { accessSync, closeSync, constants, openSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { isErrnoException } from "../errors.ts";
import { VHOST_VSOCK } from "../sys/vsock.ts";

/** Whether the host offers it, and if not, why. */
export type Support = { readonly usable: true } | { readonly usable: false; readonly reason: string };

/**
 * KVM is usable when /dev/kvm opens and the CPU has its extensions: there are hosts whose /dev/kvm opens but runs
 * paravirtual guests only.
 */
export function kvmSupport(): Support {
  const device = deviceSupport("/dev/kvm");
  if (!device.usable) return device;
  if (hasCpuExtensions(readFileSync("/proc/cpuinfo", "utf8"))) return { usable: true };
  return { usable: false, reason: "/dev/kvm is there, but the CPU shows neither vmx nor svm" };
}

/** Whether VMs can be reached over vsock. Opening the device loads its module where there is one. */
export function vsockSupport(): Support {
  return deviceSupport(VHOST_VSOCK);
}

function deviceSupport(path: string): Support {
  try {
    closeSync(openSync(path, constants.O_RDWR));
    return { usable: true };
  } catch (thrown) {
    const errno = isErrnoException(thrown) ? thrown.code : String(thrown);
    return { usable: false, reason: `${path} cannot be opened: ${errno}` };
  }
}

/** Intel's vmx or AMD's svm among the flags of /proc/cpuinfo. */
export function hasCpuExtensions(cpuinfo: string): boolean {
  return /^flags\s*:.*\b(?:vmx|svm)\b/m.test(cpuinfo);
}

export function hostCpus(): number {
  return availableParallelism();
}

/** MiB of memory this host has. */
export function hostMemoryMib(): number {
  const kib = /^MemTotal:\s+(\d+) kB$/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1] ?? "0";
  return Math.floor(Number(kib) / 1024);
}

/** Where distributions put it: Debian 12, Debian 13 and Fedora, Arch, own builds. */
export const VIRTIOFSD_PLACES = [
  "/usr/lib/qemu/virtiofsd",
  "/usr/libexec/virtiofsd",
  "/usr/lib/virtiofsd",
  "/usr/local/bin/virtiofsd",
] as const;

/** The first of the places that holds a program. */
export function findVirtiofsd(places: readonly string[] = VIRTIOFSD_PLACES): string | undefined {
  return places.find(isExecutable);
}

export function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
