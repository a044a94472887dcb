/**
 * Flags of bind mounts in user namespaces, where crun 1.8 leaves out all of them unless a mount is read-only. So the agent makes
 * such a mount first, with its flags, and the container gets a bind mount of that, which keeps them. Source: crun's
 * libcrun_container_setup_mounts, which moves a copy of the source there.
 */
import type { Mount } from "../oci/spec.ts";

/** Where the agent mounts them. */
const GUEST_BINDS_DIR = "/run/hearth/binds";

export interface GuestBind {
  /** Absolute, in the guest, as is `mountPoint`. */
  readonly source: string;
  readonly options: readonly string[];
  readonly mountPoint: string;
}

const FLAG = /^(?:no)?(?:suid|dev|exec|atime|diratime|relatime|strictatime)$/;

/**
 * The mounts of a container in a user namespace, `rootfs` being its root in the guest, and what is to be bound before crun
 * finds it as the source of one of them. What a mount puts into the root is not there yet then: a bind mount of that stays as it is.
 */
export function keepFlags(
  mounts: readonly Mount[],
  { rootfs, containerId }: { readonly rootfs: string; readonly containerId: string },
): { readonly mounts: Mount[]; readonly binds: GuestBind[] } {
  const binds: GuestBind[] = [];
  const kept = mounts.map((mount, index) => {
    const { source, options = [] } = mount;
    const isBind = options.includes("bind") || options.includes("rbind");
    const flags = options.filter((option) => FLAG.test(option));
    if (!isBind || source === undefined || flags.length === 0) return mount;
    if (options.includes("ro") || source.startsWith(`${rootfs}/`)) return mount;
    const mountPoint = `${GUEST_BINDS_DIR}/${containerId}/${index}`;
    binds.push({ source, options: flags, mountPoint });
    return { ...mount, source: mountPoint };
  });
  return { mounts: kept, binds };
}
