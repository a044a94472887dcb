/** Storages: what a client wants mounted in the guest, for the sandbox or for one container. */
import { chmodSync, existsSync, lchownSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, isAbsolute, join, normalize } from "node:path";
import { HearthError, SystemError, toHearthError } from "../../errors.ts";
import type { Storage } from "../../gen/agent_pb.ts";
import type { FSGroupChangePolicy } from "../../gen/types_pb.ts";
import type { Log } from "../../log.ts";
import {
  type MountOptions,
  MS_BIND,
  MS_RDONLY,
  MS_REC,
  MS_REMOUNT,
  mount,
  setReadOnly,
  unmount,
} from "../../sys/mount.ts";
import { blockDevice, waitForDevice } from "./devices.ts";
import { parseMountOptions } from "./mount-options.ts";
import { readAhead } from "./read-ahead.ts";

/** By the names of Kata's drivers. */
export const STORAGE_DRIVERS = ["9p", "bind", "blk", "ephemeral", "local", "overlayfs", "virtio-fs"] as const;
type StorageDriver = (typeof STORAGE_DRIVERS)[number];

/** Something that was mounted or made for a storage and will be taken away again. */
interface Mounted {
  readonly mountPoint: string;
  readonly source: string;
  users: number;
}

/** What is mounted, by mount point. The same storage may be asked for several times; the last release unmounts it. */
export class StorageMounts {
  readonly #mounted = new Map<string, Mounted>();
  readonly #log: Log;

  constructor(log: Log) {
    this.#log = log;
  }

  /** Mounts all, in order, or none. Returns how to give them back. */
  async acquire(storages: readonly Storage[], signal: AbortSignal): Promise<StorageLease> {
    const lease = new StorageLease(this);
    try {
      for (const storage of storages) {
        await this.#acquireOne(storage, signal);
        lease.mountPoints.push(normalize(storage.mountPoint));
      }
      return lease;
    } catch (thrown) {
      lease.release();
      throw thrown;
    }
  }

  /** Gives one use back. */
  release(mountPoint: string): void {
    const found = this.#mounted.get(mountPoint);
    if (found === undefined) return;
    found.users--;
    if (found.users > 0) return;
    this.#mounted.delete(mountPoint);
    try {
      unmount(mountPoint);
    } catch (thrown) {
      this.#log.warn("storage is busy, detached", { mountPoint, error: String(thrown) });
      unmount(mountPoint, { detach: true });
    }
  }

  async #acquireOne(storage: Storage, signal: AbortSignal): Promise<void> {
    const driver = STORAGE_DRIVERS.find((name) => name === storage.driver);
    if (driver === undefined) {
      throw new HearthError("unimplemented", `mount storage on ${storage.mountPoint}: no driver "${storage.driver}"`);
    }
    const mountPoint = normalize(storage.mountPoint);
    if (!isAbsolute(mountPoint)) {
      throw new HearthError("invalid-argument", `mount storage on "${storage.mountPoint}": not an absolute path`);
    }
    const known = this.#mounted.get(mountPoint);
    if (known !== undefined) {
      if (known.source !== storage.source) {
        throw new HearthError("already-exists", `mount ${storage.source} on ${mountPoint}: ${known.source} is there`);
      }
      known.users++;
      return;
    }
    await mountStorage(driver, storage, mountPoint, signal);
    if (driver === "virtio-fs") readAhead(mountPoint, this.#log);
    if (driver !== "local") this.#mounted.set(mountPoint, { mountPoint, source: storage.source, users: 1 });
    if (storage.fsGroup !== undefined) {
      applyFsGroup(mountPoint, storage.fsGroup.groupId, storage.fsGroup.groupChangePolicy);
    }
  }
}

/** The uses of one sandbox or container. */
export class StorageLease {
  readonly mountPoints: string[] = [];
  readonly #mounts: StorageMounts;

  constructor(mounts: StorageMounts) {
    this.#mounts = mounts;
  }

  /** Last mounted first; idempotent. */
  release(): void {
    for (let at = this.mountPoints.pop(); at !== undefined; at = this.mountPoints.pop()) this.#mounts.release(at);
  }
}

async function mountStorage(
  driver: StorageDriver,
  storage: Storage,
  mountPoint: string,
  signal: AbortSignal,
): Promise<void> {
  if (driver === "local") {
    makeDirectory(mountPoint, storage.options);
    return;
  }
  const { flags, propagation, data } = parseMountOptions(storage.options);
  const source = driver === "blk" ? await blockDevice(storage.source, signal) : storage.source;
  if (driver === "bind" || (flags & MS_BIND) !== 0) {
    makeMountPoint(mountPoint, driver === "bind" ? source : undefined);
    bind(source, mountPoint, flags | MS_BIND);
  } else {
    const type = fileSystemType(driver, storage.fstype);
    const options = {
      source: source === "" ? type : source,
      target: mountPoint,
      type,
      flags,
      ...(data === "" ? {} : { data }),
    };
    if (driver === "virtio-fs") await waitForDevice(`virtio-fs ${source}`, () => mountIfThere(options), signal);
    else mountOnPoint(options);
  }
  for (const kind of propagation) mount({ source: "none", target: mountPoint, flags: kind });
}

/** A file system whose device is just being plugged is not known by its tag yet: undefined then, true when it is mounted. */
function mountIfThere(options: MountOptions): true | undefined {
  try {
    mountOnPoint(options);
    return true;
  } catch (thrown) {
    // Source: Linux fs/fuse/virtio_fs.c, virtio_fs_get_tree.
    if (thrown instanceof SystemError && thrown.errno === "EINVAL") return undefined;
    throw thrown;
  }
}

/** Makes the mount point when it is missing. A clone has it from its template, and need not look for it. */
function mountOnPoint(options: MountOptions): void {
  try {
    mount(options);
  } catch (thrown) {
    if (!(thrown instanceof SystemError && thrown.errno === "ENOENT")) throw thrown;
    makeMountPoint(options.target, undefined);
    mount(options);
  }
}

function fileSystemType(driver: StorageDriver, wanted: string): string {
  switch (driver) {
    case "virtio-fs":
      return "virtiofs";
    case "9p":
      return "9p";
    case "ephemeral":
      return wanted === "" ? "tmpfs" : wanted;
    case "overlayfs":
      return "overlay";
    default:
      if (wanted === "") throw new HearthError("invalid-argument", `mount ${driver} storage: no file system type`);
      return wanted;
  }
}

/** mount(2) ignores every other flag when it binds: read-only and the like need a second call. */
function bind(source: string, target: string, flags: number): void {
  mount({ source, target, flags: flags & (MS_BIND | MS_REC) });
  const rest = flags & ~(MS_BIND | MS_REC);
  if (rest === 0) return;
  if (rest === MS_RDONLY) setReadOnly(target, (flags & MS_REC) !== 0);
  else mount({ source: "none", target, flags: MS_REMOUNT | MS_BIND | rest });
}

/** A file is mounted on a file, anything else on a directory. */
function makeMountPoint(path: string, boundSource: string | undefined): void {
  try {
    const isFile = boundSource !== undefined && !statSync(boundSource).isDirectory();
    mkdirSync(isFile ? dirname(path) : path, { recursive: true });
    if (isFile && !existsSync(path)) writeFileSync(path, "", { flag: "a" });
  } catch (thrown) {
    throw toHearthError(thrown, `make mount point ${path}`);
  }
}

/** A directory on the guest's own tmpfs, shared by the containers of a pod. Options: mode=OCTAL. */
function makeDirectory(path: string, options: readonly string[]): void {
  const mode = options.find((option) => option.startsWith("mode="))?.slice("mode=".length);
  try {
    mkdirSync(path, { recursive: true });
    if (mode !== undefined) chmodSync(path, Number.parseInt(mode, 8));
  } catch (thrown) {
    throw toHearthError(thrown, `make directory ${path}`);
  }
}

/** FSGroupChangePolicy; not the enum itself, which would load the descriptors. */
const ON_ROOT_MISMATCH = 1;

/** Gives a volume to a group, as Kubernetes' fsGroup asks: group and setgid on all of it, unless its root has them. */
function applyFsGroup(root: string, group: number, policy: FSGroupChangePolicy): void {
  const SETGID_AND_GROUP_RWX = 0o2070;
  try {
    const top = statSync(root);
    const matches = top.gid === group && (top.mode & SETGID_AND_GROUP_RWX) === SETGID_AND_GROUP_RWX;
    if (policy === ON_ROOT_MISMATCH && matches) return;
    const pending = [root];
    for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
      const stat = statSync(path);
      lchownSync(path, stat.uid, group);
      chmodSync(path, (stat.mode & 0o7777) | (stat.isDirectory() ? SETGID_AND_GROUP_RWX : 0o060));
      if (!stat.isDirectory()) continue;
      for (const entry of readdirSync(path, { withFileTypes: true })) {
        const inside = join(path, entry.name);
        if (entry.isSymbolicLink()) lchownSync(inside, stat.uid, group);
        else pending.push(inside);
      }
    }
  } catch (thrown) {
    throw toHearthError(thrown, `give ${root} to group ${group}`);
  }
}
