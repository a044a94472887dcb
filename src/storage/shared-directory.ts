/** The directory a VM shares with its host: paths of the host appear in it by bind mount, served by virtiofsd or by QEMU's 9p. */
import { closeSync, mkdirSync, openSync, rmdirSync, type Stats, statSync, unlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { HearthError, isErrnoException, isNotFound, toHearthError } from "../errors.ts";
import { type Log, silentLog } from "../log.ts";
import type { VmPaths } from "../paths.ts";
import type { OwnedFd } from "../sys/fd.ts";
import {
  attachTree,
  type BindOptions,
  bindMount,
  cloneTree,
  makePrivate,
  makeShared,
  makeSlave,
  mount,
  setReadOnly,
  unmount,
  unmountTree,
} from "../sys/mount.ts";
import { inMountNamespace, inPrivateMounts } from "../sys/namespace.ts";
import type { ProcessIdentity } from "../sys/process-identity.ts";
import { type IdRange, makeUserNamespace } from "../sys/user-namespace.ts";
import { startVirtiofsd, type Virtiofsd } from "./virtiofsd.ts";

export const SHARED_DIRECTORY_TAG = "hearthShared";

export type SharedDirectoryPaths = Pick<VmPaths, "shared" | "served" | "virtiofsdSocket" | "virtiofsdLog">;

export interface SharedDirectoryOptions {
  readonly paths: SharedDirectoryPaths;
  readonly sharedFs: "virtio-fs" | "virtio-9p";
  /** For virtio-fs only. */
  readonly virtiofsdPath: string;
  readonly log?: Log;
  readonly signal?: AbortSignal;
}

/** The device as hypervisor/ takes it. */
export type SharedDirectoryDevice =
  | { readonly kind: "shared-directory-virtio-fs"; readonly tag: string; readonly socketPath: string }
  | { readonly kind: "shared-directory-9p"; readonly tag: string; readonly path: string; readonly readOnly: boolean };

export interface ExposeOptions {
  /** The guest cannot write, whatever its own mount says. Default false. */
  readonly readOnly?: boolean;
  /** With what is mounted below the path. Default true; without effect on a file. */
  readonly recursive?: boolean;
  /** Path of the mount namespace in which the host's path is looked up. Default: our own. */
  readonly mountNamespace?: string | undefined;
  /** Options of an overlay file system ("lowerdir=/a:/b"): that is what appears; the host's path is any directory. */
  readonly overlay?: string | undefined;
  /** Its files appear to be those users' that their owners are mapped to; not of an overlay. Default: their owners'. */
  readonly idMapping?: ExposeIdMapping | undefined;
}

export interface ExposeIdMapping {
  /** From what is on the disk ("container") to what is seen ("host"). */
  readonly uids: readonly IdRange[];
  readonly gids: readonly IdRange[];
  /** Of what is mounted below the path too. */
  readonly recursive: boolean;
}

/** A host path that appears in the shared directory until this is disposed of. */
export interface ExposedPath extends AsyncDisposable {
  /** Where, from the shared directory's root. */
  readonly relativePath: string;
}

export interface SharedDirectory extends AsyncDisposable {
  readonly device: SharedDirectoryDevice;
  /** Options for the guest's mount of the tag. */
  readonly guestMountOptions: readonly string[];
  readonly processes: readonly ProcessIdentity[];
  /** Resolves when what serves the directory has ended although nobody disposed of it, with the reason. Never rejects. */
  readonly failed: Promise<HearthError>;
  /**
   * Makes a path of the host appear at `relativePath`, a new name in the shared directory, for the guest at once.
   * "not-found" without the path, "already-exists" for a taken name, "invalid-argument" for one that leads elsewhere,
   * "failed-precondition" when it would not reach the guest, "unimplemented" for an id mapping over 9p.
   */
  expose(hostPath: string, relativePath: string, options?: ExposeOptions): Promise<ExposedPath>;
}

/** The directory is ready and can be given to QEMU. The caller owns it; nothing is left when this fails. */
export async function openSharedDirectory(options: SharedDirectoryOptions): Promise<SharedDirectory> {
  const { paths } = options;
  await using undo = new AsyncDisposableStack();
  makeDirectories(paths, undo);
  if (options.sharedFs === "virtio-9p") {
    const device = {
      kind: "shared-directory-9p",
      tag: SHARED_DIRECTORY_TAG,
      path: paths.served,
      readOnly: false,
    } as const;
    return new OpenSharedDirectory(paths, device, undefined, undo.move());
  }
  const daemon = undo.use(
    await startVirtiofsd({
      path: options.virtiofsdPath,
      directory: paths.served,
      socket: paths.virtiofsdSocket,
      log: paths.virtiofsdLog,
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    }),
  );
  (options.log ?? silentLog).debug("virtiofsd started", { pid: daemon.identity.pid });
  const socketPath = paths.virtiofsdSocket;
  const device = { kind: "shared-directory-virtio-fs", tag: SHARED_DIRECTORY_TAG, socketPath } as const;
  return new OpenSharedDirectory(paths, device, daemon, undo.move());
}

/**
 * `shared` is a shared mount of its own, so that a bind mount made in it later appears in `served` and in the mount
 * namespace of a daemon that was started before. `served` is the same directory read-only: could the guest make a
 * symbolic link where we make our next mount point, root on the host would follow it.
 */
function makeDirectories(paths: SharedDirectoryPaths, undo: AsyncDisposableStack): void {
  for (const path of [paths.shared, paths.served]) {
    try {
      mkdirSync(path, { recursive: true, mode: 0o755 });
    } catch (thrown) {
      throw toHearthError(thrown, `make shared directory ${path}`);
    }
  }
  bindMount(paths.shared, paths.shared);
  undo.defer(() => void unmountTree(paths.shared, { detach: true }));
  // First private: where the mount it lies in is shared, ours would show up in that one's other places too.
  makePrivate(paths.shared);
  makeShared(paths.shared);
  bindMount(paths.shared, paths.served);
  undo.defer(() => void unmountTree(paths.served, { detach: true }));
  setReadOnly(paths.served, false);
}

/**
 * access=client: each user of the guest is known to the server, which makes files for that user; permissions are checked by
 * the guest's kernel, as on a disk. (With access=any everything made belongs to root.)
 * cache=mmap: without it no shared mapping is possible. Source: Linux Documentation/filesystems/9p.rst.
 */
const GUEST_9P_OPTIONS = ["trans=virtio", "version=9p2000.L", "msize=262144", "cache=mmap", "access=client"] as const;

class OpenSharedDirectory implements SharedDirectory {
  readonly device: SharedDirectoryDevice;
  readonly guestMountOptions: readonly string[];
  readonly processes: readonly ProcessIdentity[];
  readonly failed: Promise<HearthError>;
  readonly #paths: SharedDirectoryPaths;
  readonly #undo: AsyncDisposableStack;
  readonly #exposed = new Set<string>();
  #disposed = false;

  constructor(
    paths: SharedDirectoryPaths,
    device: SharedDirectoryDevice,
    daemon: Virtiofsd | undefined,
    undo: AsyncDisposableStack,
  ) {
    this.#paths = paths;
    this.#undo = undo;
    this.device = device;
    this.guestMountOptions = daemon === undefined ? GUEST_9P_OPTIONS : [];
    this.processes = daemon === undefined ? [] : [daemon.identity];
    this.failed = new Promise((resolve) => {
      void daemon?.ended.then((how) => {
        if (!this.#disposed)
          resolve(new HearthError("unavailable", `serve shared directory: virtiofsd has ended: ${how}`));
      });
    });
  }

  async expose(hostPath: string, relativePath: string, options: ExposeOptions = {}): Promise<ExposedPath> {
    if (this.#disposed) throw new HearthError("failed-precondition", `expose ${hostPath}: shared directory is closed`);
    assertRelativePath(relativePath, this.#exposed);
    const { idMapping } = options;
    if (idMapping !== undefined && this.device.kind === "shared-directory-9p") {
      // QEMU makes files as root and gives them away then: where root is nobody it could not.
      throw new HearthError("unimplemented", `expose ${hostPath}: virtio-9p has no id-mapped mounts`);
    }
    using userNamespace = idMapping && (await makeUserNamespace(idMapping.uids, idMapping.gids));
    const mapped = userNamespace && { userNamespace: userNamespace.fd, recursive: idMapping?.recursive === true };
    const copy = () => copyPath(hostPath, options, mapped);
    const { isDirectory, tree } =
      options.mountNamespace === undefined ? copy() : inMountNamespace(options.mountNamespace, copy);
    using _tree = tree;
    const { shared, served } = this.#paths;
    const target = join(shared, relativePath);
    await using undo = new AsyncDisposableStack();
    makeMountPoint(shared, target, isDirectory, undo);
    attachTree(tree, target);
    this.#exposed.add(relativePath);
    undo.defer(() => {
      // Detached: the daemon may have files of it open, and goes on with them until the guest closes them.
      unmount(target, { detach: true });
      // Gone with it, unless somebody has cut it off.
      unmount(join(served, relativePath), { detach: true });
      this.#exposed.delete(relativePath);
    });
    if (!isSameFile(target, join(served, relativePath))) throw new CutOffError(hostPath, served);
    const undone = undo.move();
    return { relativePath, [Symbol.asyncDispose]: () => undone.disposeAsync() };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    await this.#undo.disposeAsync();
  }
}

/** The guest would have the empty mount point. What serves it is cut off with `served`, and for good. */
class CutOffError extends HearthError {
  constructor(hostPath: string, served: string) {
    super(
      "failed-precondition",
      `expose ${hostPath}: it does not appear in ${served}, whose mounts are no longer shared`,
      {
        hint: "a program has changed the propagation of all mounts (mount --make-rprivate /): give it a mount namespace of its own",
      },
    );
  }
}

function isSameFile(one: string, other: string): boolean {
  const [left, right] = [one, other].map((path) => statSync(path, { bigint: true }));
  return left?.dev === right?.dev && left?.ino === right?.ino;
}

/** Nothing of it may lie in what the guest can write to: there it could be a link to anywhere on the host. */
function assertRelativePath(relativePath: string, exposed: ReadonlySet<string>): void {
  const parts = relativePath.split("/");
  if (relativePath.includes("\0") || parts.some((part) => part === "" || part === "." || part === "..")) {
    throw new HearthError("invalid-argument", `expose at ${JSON.stringify(relativePath)}: not a plain relative path`);
  }
  for (const other of exposed) {
    if (other === relativePath) throw new HearthError("already-exists", `expose at ${relativePath}: it is taken`);
    if (relativePath.startsWith(`${other}/`) || other.startsWith(`${relativePath}/`)) {
      throw new HearthError("invalid-argument", `expose at ${relativePath}: it lies in or around ${other}`);
    }
  }
}

/** Slave mounts: undoing a recursive bind of a shared source must not unmount the host's own mounts. */
function copyPath(
  hostPath: string,
  options: ExposeOptions,
  idMapping: BindOptions["idMapping"],
): { isDirectory: boolean; tree: OwnedFd } {
  if (options.overlay !== undefined) return { isDirectory: true, tree: overlayTree(hostPath, options.overlay) };
  const isDirectory = statPath(hostPath).isDirectory();
  const recursive = isDirectory && options.recursive !== false;
  return {
    isDirectory,
    tree: cloneTree(hostPath, { recursive, readOnly: options.readOnly === true, slave: true, idMapping }),
  };
}

/** Mounted where only we see it, until what is left of it is the tree. */
function overlayTree(place: string, overlay: string): OwnedFd {
  try {
    return inPrivateMounts(() => {
      // What is unmounted on the host goes here too: a thread that is started meanwhile stays in this copy.
      makeSlave("/", true);
      mount({ source: "overlay", target: place, type: "overlay", data: overlay });
      return cloneTree(place, { slave: true });
    });
  } catch (thrown) {
    const { code } = toHearthError(thrown, "mount overlay");
    throw new HearthError(code, `mount overlay with ${overlay}`, { cause: thrown });
  }
}

function statPath(hostPath: string): Stats {
  try {
    return statSync(hostPath);
  } catch (thrown) {
    throw toHearthError(thrown, `expose ${hostPath}`);
  }
}

/** Makes what is missing of the path; the undo removes the mount point, and the directories above that are empty then. */
function makeMountPoint(root: string, target: string, isDirectory: boolean, undo: AsyncDisposableStack): void {
  undo.defer(() => removeEmptyParents(root, target));
  try {
    mkdirSync(dirname(target), { recursive: true, mode: 0o755 });
    if (isDirectory) mkdirSync(target, { mode: 0o755 });
    else closeSync(openSync(target, "wx", 0o644));
  } catch (thrown) {
    throw toHearthError(thrown, `make mount point ${target}`);
  }
  undo.defer(() => {
    try {
      if (isDirectory) rmdirSync(target);
      else unlinkSync(target);
    } catch (thrown) {
      if (!isNotFound(thrown)) throw toHearthError(thrown, `remove mount point ${target}`);
    }
  });
}

/** Everything in the shared directory but what is mounted there is ours; stops at what another exposed path still needs. */
function removeEmptyParents(root: string, target: string): void {
  for (let at = dirname(target); at !== root; at = dirname(at)) {
    try {
      rmdirSync(at);
    } catch (thrown) {
      if (isErrnoException(thrown) && thrown.code === "ENOTEMPTY") return;
      if (!isNotFound(thrown)) throw toHearthError(thrown, `remove directory ${at}`);
    }
  }
}
