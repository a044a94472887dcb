/** Mounts of file systems that are on disks of the host: the guest gets the disk and mounts it, the container a bind mount of that. */
import { resolve } from "node:path";
import { HearthError } from "../errors.ts";
import type { Mount } from "../oci/spec.ts";
import type { HostFileType } from "./guest-spec.ts";
import { FLAG, PROPAGATION } from "./mount-options.ts";
import { refuse } from "./refuse.ts";

/** Where the agent mounts them. */
const GUEST_DISKS_DIR = "/run/hearth/disks";

/** What the guest's kernel can read from a disk. */
const DISK_FILESYSTEMS: ReadonlySet<string> = new Set([
  "ext2",
  "ext3",
  "ext4",
  "xfs",
  "btrfs",
  "vfat",
  "iso9660",
  "squashfs",
  "erofs",
]);

export interface GuestDisk {
  /** A block device. */
  readonly hostPath: string;
  readonly fsType: string;
  readonly options: readonly string[];
  /** Absolute, in the guest. */
  readonly mountPoint: string;
}

export interface GuestDiskContext {
  readonly containerId: string;
  readonly bundle: string;
  readonly fileTypeOf: (hostPath: string) => HostFileType;
}

/** Undefined for a mount of another kind. Fails as mount(2) would when the source is no block device. */
export function guestDisk(
  mount: Mount,
  index: number,
  options: readonly string[],
  { containerId, bundle, fileTypeOf }: GuestDiskContext,
): { readonly mount: Mount; readonly disk: GuestDisk } | undefined {
  const { type, source, destination } = mount;
  if (type === undefined || !DISK_FILESYSTEMS.has(type)) return undefined;
  if (source === undefined) {
    throw new HearthError("invalid-argument", `read config.json: mount ${destination} has no source`);
  }
  const hostPath = resolve(bundle, source);
  const kind = fileTypeOf(hostPath);
  if (kind === "missing") {
    throw new HearthError("not-found", `mount ${destination}: source ${hostPath} does not exist`);
  }
  if (kind !== "disk") refuse(`mount ${destination}`, `${hostPath} is a ${kind} and no block device`);
  const mountPoint = `${GUEST_DISKS_DIR}/${containerId}/${index}`;
  const own = options.filter((option) => PROPAGATION.test(option) || FLAG.test(option));
  return {
    mount: { ...mount, type: "bind", source: mountPoint, options: ["bind", ...own] },
    disk: { hostPath, fsType: type, options: options.filter((option) => !PROPAGATION.test(option)), mountPoint },
  };
}
