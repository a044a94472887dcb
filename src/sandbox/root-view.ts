/**
 * A container's file system as the host can show it: a mount namespace with its root and its bind mounts, in which its shim
 * lives. Engines enter a container by its pid, as podman does to copy files, and find the container's files and not the host's.
 */
import { closeSync, existsSync, mkdirSync, openSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { describeError, isNotFound } from "../errors.ts";
import type { Mount } from "../oci/spec.ts";
import { O_RDONLY, type OwnedFd, openFd } from "../sys/fd.ts";
import { attachTree, type BindOptions, cloneTree, makeSlave, mount, pivotRoot, setReadOnly } from "../sys/mount.ts";
import { inPrivateMounts } from "../sys/namespace.ts";
import { makeUserNamespace } from "../sys/user-namespace.ts";
import { type Exposure, GUEST_SHARED_DIR, type GuestSpec } from "./guest-spec.ts";
import { insideOf } from "./rootfs-mounts.ts";

/** Where the new root is mounted for a moment, out of anybody's sight: any directory but the root. */
const PLACE = "/proc";

/** A mount of the container: a copy of what is on the host, or nothing where only the guest has it. */
interface Shown {
  readonly destination: string;
  readonly copy: { readonly tree: OwnedFd; readonly isDirectory: boolean } | undefined;
  readonly isProc: boolean;
}

export interface RootView {
  /** The mount namespace; the caller closes it. */
  readonly namespace: OwnedFd;
  /** Where it wants a /proc, which only a process of the pid namespace that is to be seen there can mount. */
  readonly procPaths: readonly string[];
  /** Mounts that it has not. */
  readonly warnings: readonly string[];
}

/**
 * Made of the paths as the calling thread sees them, once the guest has made the mount points. What only the guest has
 * (file systems in memory, /dev) is covered by an empty, read-only directory: nothing that is put there could get to it.
 * /proc is left to the shim, whose pid namespace has no process of the host's: by the root of one, a link of the container's
 * would lead out of it. (An empty one would not do: podman starts its own program anew through it.)
 */
export async function openRootView({ config, hostRootfs, exposures }: GuestSpec): Promise<RootView> {
  using userNamespaces = new DisposableStack();
  const mapped = new Map<Exposure, BindOptions["idMapping"]>();
  for (const exposure of exposures) {
    const { idMapping } = exposure;
    if (idMapping === undefined) continue;
    const { fd } = userNamespaces.use(await makeUserNamespace(idMapping.uids, idMapping.gids));
    mapped.set(exposure, { userNamespace: fd, recursive: idMapping.recursive });
  }
  return inPrivateMounts(() => {
    const namespace = openFd("/proc/thread-self/ns/mnt", O_RDONLY);
    try {
      makeSlave("/", true);
      using copies = new DisposableStack();
      // Parts of the root as earlier mounts have made it are the guest's alone.
      const others = exposures.filter(({ relativePath }) => join(GUEST_SHARED_DIR, relativePath) !== config.root?.path);
      const shown = (config.mounts ?? []).map((one) => showMount(one, others, mapped, copies));
      using root = cloneTree(hostRootfs, { recursive: true, slave: true, readOnly: config.root?.readonly === true });
      attachTree(root, PLACE);
      pivotRoot(PLACE);
      return { namespace, ...putInPlace(shown) };
    } catch (thrown) {
      namespace.close();
      throw thrown;
    }
  });
}

function showMount(
  { destination, type, source = "", options = [] }: Mount,
  exposures: readonly Exposure[],
  mapped: ReadonlyMap<Exposure, BindOptions["idMapping"]>,
  copies: DisposableStack,
): Shown {
  const inside = (exposure: Exposure) => insideOf(join(GUEST_SHARED_DIR, exposure.relativePath), source);
  const exposure = exposures.find((one) => inside(one) !== undefined);
  // Without a file on the host it leads to what only the guest has.
  if (exposure === undefined || exposure.overlay !== undefined || !existsSync(exposure.hostPath)) {
    return { destination, copy: undefined, isProc: type === "proc" };
  }
  const hostPath = join(exposure.hostPath, inside(exposure) ?? "");
  const isDirectory = statSync(hostPath).isDirectory();
  const how = { slave: true, readOnly: options.includes("ro"), idMapping: mapped.get(exposure) };
  const tree = copies.use(cloneTree(hostPath, { recursive: isDirectory && exposure.recursive, ...how }));
  return { destination, copy: { tree, isDirectory }, isProc: false };
}

/** Within the new root, so that no symbolic link of the container's leads out of it. */
function putInPlace(shown: readonly Shown[]): Omit<RootView, "namespace"> {
  const covers: string[] = [];
  const procPaths: string[] = [];
  const warnings = shown.flatMap(({ destination, copy, isProc }) => {
    try {
      makeMountPoint(destination, copy?.isDirectory !== false);
      if (copy !== undefined) attachTree(copy.tree, destination, { followLink: true });
      else {
        mount({ source: "hearth", target: destination, type: "tmpfs", data: "size=64k,mode=755" });
        covers.push(destination);
        if (isProc) procPaths.push(destination);
      }
      return [];
    } catch (thrown) {
      return [`mount ${destination} is not shown on the host: ${describeError(thrown)}`];
    }
  });
  // Last, since mount points of others may be in them. The dot, as the destination may be a link.
  for (const cover of covers) closeCover(`${cover}/.`);
  return { procPaths, warnings };
}

/** One that a later mount hides cannot be reached, and nothing can be put there. */
function closeCover(path: string): void {
  try {
    setReadOnly(path, false);
  } catch (thrown) {
    if (!isNotFound(thrown)) throw thrown;
  }
}

function makeMountPoint(path: string, isDirectory: boolean): void {
  if (existsSync(path)) return;
  mkdirSync(isDirectory ? path : dirname(path), { recursive: true });
  if (!isDirectory) closeSync(openSync(path, "a"));
}
