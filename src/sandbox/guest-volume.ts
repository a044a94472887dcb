/** Bind mounts that are file systems of the guest's own, in its memory. */
import { createHash } from "node:crypto";
import { resolve } from "node:path";
import { MIRROR_SIZE_BYTES } from "../limits.ts";
import type { Mount } from "../oci/spec.ts";
import type { GuestSpecContext } from "./guest-spec.ts";
import { guestOptions, withFlags } from "./mount-options.ts";
import { isBindMount } from "./rootfs-mounts.ts";

/** Where the agent makes the file systems in memory that the containers of a pod share. */
const GUEST_VOLUMES_DIR = "/run/hearth/volumes";

/** Memory of the guest's own in place of a file system in the host's; containers that name the same one share it. */
export interface GuestVolume {
  readonly fsType: "tmpfs" | "hugetlbfs";
  /** Absolute, in the guest. */
  readonly mountPoint: string;
  /** Options of the file system, "size=65536". */
  readonly options: readonly string[];
  /** The volume of the host, absolute, whose files it has; undefined: none. */
  readonly mirrorOf?: string;
}

/**
 * Memory of the host that an engine made for a container or pod: /dev/shm, and Kubernetes' emptyDir in memory or in huge pages,
 * wherever those are. Shared through a file server it would be neither fast nor memory of the pod, so the guest has its own for it.
 */
export function guestVolume(mount: Mount, context: GuestSpecContext, volumes: GuestVolume[]): Mount[] | undefined {
  if (!isBindMount(mount) || mount.source === undefined) return undefined;
  const hostPath = resolve(context.bundle, mount.source);
  const isShm = mount.destination === "/dev/shm" && hostPath !== "/dev/shm";
  const tmpfs = context.tmpfsAt(hostPath);
  if (tmpfs === undefined) return undefined;
  const { hugepageBytes, sizeBytes, mode, uid, gid } = tmpfs;
  const isPods = isShm || hostPath.includes("/kubernetes.io~empty-dir/");
  if (!isPods && hugepageBytes === undefined) return undefined;
  const mountPoint = volumeMountPoint(hostPath);
  volumes.push({
    fsType: hugepageBytes === undefined ? "tmpfs" : "hugetlbfs",
    mountPoint,
    options: [
      ...(hugepageBytes === undefined ? [] : [`pagesize=${hugepageBytes}`]),
      ...(hugepageBytes !== undefined && sizeBytes === 0 ? [] : [`size=${sizeBytes}`]),
      ...[`mode=${mode.toString(8)}`, `uid=${uid}`, `gid=${gid}`],
    ],
  });
  return [{ ...mount, options: guestOptions(mount), source: mountPoint }];
}

/** Of what containers cannot change: what they did to their copy would not reach the host. */
export function mirroredVolume(mount: Mount, context: GuestSpecContext, volumes: GuestVolume[]): Mount[] | undefined {
  const { options: given = [] } = mount;
  const access = given.findLast((option) => /^r?r[ow]$/.test(option));
  if (!isBindMount(mount) || mount.source === undefined || access?.endsWith("ro") !== true) return undefined;
  const hostPath = resolve(context.bundle, mount.source);
  if (context.isMirrored?.(hostPath) !== true) return undefined;
  const mountPoint = volumeMountPoint(hostPath);
  const options = [`size=${MIRROR_SIZE_BYTES}`, "mode=755"];
  volumes.push({ fsType: "tmpfs", mountPoint, options, mirrorOf: hostPath });
  const flagged = withFlags(mount, () => context.mountFlags(hostPath));
  return [{ ...flagged, options: guestOptions(flagged), source: mountPoint }];
}

function volumeMountPoint(hostPath: string): string {
  const name = createHash("sha256").update(hostPath).digest("hex").slice(0, VOLUME_NAME_LENGTH);
  return `${GUEST_VOLUMES_DIR}/${name}`;
}

/** Characters of a hash of the host's path: enough to tell the volumes of one VM apart. */
const VOLUME_NAME_LENGTH = 16;
