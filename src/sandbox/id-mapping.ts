/** Which users a bind mount shows its files as those of: `idmap` and `ridmap`, and the mappings of a mount. Pure. */
import { HearthError } from "../errors.ts";
import type { IdMapping, Mount, Spec } from "../oci/spec.ts";

/** Of what is on the disk ("container") to what is seen ("host"). Source: mount_setattr(2), "ID-mapped mounts". */
export interface MountIdMapping {
  readonly uids: readonly IdMapping[];
  readonly gids: readonly IdMapping[];
  /** Of what is mounted below too. */
  readonly recursive: boolean;
}

/**
 * What a mount asks for: its own mappings, else those of the container's user namespace. Undefined when it asks for none.
 * Fails with invalid-argument for one that cannot be, as runc does.
 */
export function mountIdMapping(mount: Mount, linux: Spec["linux"], isBind: boolean): MountIdMapping | undefined {
  const { destination, options = [], uidMappings, gidMappings } = mount;
  const option = options.findLast((name) => name === "idmap" || name === "ridmap");
  const hasOwn = uidMappings !== undefined || gidMappings !== undefined;
  if (option === undefined && !hasOwn) return undefined;
  if (!isBind) throw invalid(destination, "id-mapped mounts are only supported for bind-mounts");
  const hasNamespace = linux?.namespaces?.some(({ type }) => type === "user") === true;
  const { uidMappings: uids = [], gidMappings: gids = [] } = hasOwn || !hasNamespace ? mount : linux;
  if (uids.length === 0 || gids.length === 0) {
    throw invalid(destination, "id-mapped mounts must have both uid and gid mappings specified");
  }
  return { uids, gids, recursive: option === "ridmap" };
}

function invalid(destination: string, why: string): HearthError {
  return new HearthError("invalid-argument", `mount ${destination}: ${why}`);
}
