/**
 * What a container in a user namespace lacks because its network is the VM's, which it does not own: the kernel lets only
 * the owner of the network mount a sysfs, and use ports below 1024. Source: Linux fs/sysfs/mount.c, ip-sysctl.rst.
 */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { MS_NODEV, MS_NOEXEC, MS_NOSUID, mount } from "../../sys/mount.ts";
import { isRecord, type JsonRecord } from "./json-record.ts";

/** What crun gives a sysfs without options. */
const SYSFS_OPTIONS: readonly string[] = ["nosuid", "noexec", "nodev"];

/** Of a configuration that makes a user namespace but no network: its mounts with `sysfs`, one of the guest's, bound in place of a new one. */
export function bindSysfs(
  mounts: readonly unknown[],
  sysfs: string,
): { readonly mounts: unknown[]; readonly binds: boolean } {
  const isSysfs = (entry: unknown): entry is JsonRecord => isRecord(entry) && entry["type"] === "sysfs";
  const bound = mounts.map((entry) => {
    if (!isSysfs(entry)) return entry;
    const options = Array.isArray(entry["options"]) ? entry["options"] : SYSFS_OPTIONS;
    return { ...entry, type: "bind", source: sysfs, options: ["bind", ...options] };
  });
  return { mounts: bound, binds: mounts.some(isSysfs) };
}

/**
 * Mounts a sysfs that, unlike /sys, has nothing mounted below it: a part of a tree of mounts cannot be bound in a user
 * namespace. Its flags are those that it has in a container: crun gives a bind mount there none.
 */
export function mountSysfs(sysfs: string): void {
  if (existsSync(join(sysfs, "kernel"))) return;
  mkdirSync(sysfs, { recursive: true, mode: 0o755 });
  mount({ source: "sysfs", target: sysfs, type: "sysfs", flags: MS_NOSUID | MS_NOEXEC | MS_NODEV });
}

/** Where the configuration says nothing of them, every port is open to whoever is in the VM: one cannot open them to its root alone. */
export const PORTS_SYSCTL: Readonly<Record<string, string>> = { "net.ipv4.ip_unprivileged_port_start": "0" };
