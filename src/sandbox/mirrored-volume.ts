/**
 * Volumes that Kubernetes' node agent fills and changes: config maps, secrets, downward API, service account tokens. Programs
 * watch them by inotify, which over a shared file system tells of nothing that the host does. So the guest has a copy in
 * its memory, which Kata calls a watchable mount.
 */
import { constants, lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { HearthError, isNotFound } from "../errors.ts";
import { MIRRORED_BYTES_MAX, MIRRORED_FILES_MAX } from "../limits.ts";

/** Source: Kubernetes, pkg/kubelet/config and pkg/volume: pods/UID/volumes/PLUGIN/NAME with the "/" of a plugin's name escaped. */
const KUBERNETES_VOLUME = /\/kubernetes\.io~(?:configmap|downward-api|projected|secret)\/[^/]+$/;

/** A file of such a volume, as MirrorVolume takes it. */
export interface VolumeFile {
  /** From the volume's root, whose own is empty. */
  readonly path: string;
  /** With the file's type. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Nanoseconds since the epoch. */
  readonly modified: bigint;
  /** Content, or where a symbolic link leads. */
  readonly data: Uint8Array<ArrayBuffer>;
}

/** Whether the guest gets a copy of what is there: by its place on the host, its size, and what it holds. */
export function isMirrored(hostPath: string): boolean {
  if (!KUBERNETES_VOLUME.test(hostPath)) return false;
  try {
    readVolume(hostPath);
    return true;
  } catch (thrown) {
    if (thrown instanceof HearthError || isNotFound(thrown)) return false;
    throw thrown;
  }
}

/**
 * All of it, each file after the directory that it is in. Fails with resource-exhausted when it is too much for a copy, with
 * unimplemented for what is neither file nor directory nor link, or not of the volume; with ENOENT when it changes meanwhile.
 */
export function readVolume(hostPath: string): VolumeFile[] {
  const files: VolumeFile[] = [];
  const root = lstatSync(hostPath, { bigint: true });
  let room = MIRRORED_BYTES_MAX;
  const take = (path: string): void => {
    if (files.length >= MIRRORED_FILES_MAX) throw tooMuch(hostPath, `${MIRRORED_FILES_MAX} files`);
    const at = join(hostPath, path);
    const { dev, mode, uid, gid, size, mtimeNs } = lstatSync(at, { bigint: true });
    const type = Number(mode) & constants.S_IFMT;
    if (dev !== root.dev) throw new HearthError("unimplemented", `copy volume ${hostPath}: something is mounted in it`);
    if (type === constants.S_IFREG && size > room) throw tooMuch(hostPath, `${MIRRORED_BYTES_MAX} bytes`);
    const data = contentOf(at, type);
    room -= data.length;
    if (room < 0) throw tooMuch(hostPath, `${MIRRORED_BYTES_MAX} bytes`);
    files.push({ path, mode: Number(mode), uid: Number(uid), gid: Number(gid), modified: mtimeNs, data });
    if (type !== constants.S_IFDIR) return;
    for (const name of readdirSync(at).sort()) take(join(path, name));
  };
  take("");
  return files;
}

const tooMuch = (hostPath: string, limit: string): HearthError =>
  new HearthError("resource-exhausted", `copy volume ${hostPath}: more than ${limit}`);

function contentOf(at: string, type: number): Uint8Array<ArrayBuffer> {
  switch (type) {
    case constants.S_IFDIR:
      return new Uint8Array(0);
    case constants.S_IFREG:
      return new Uint8Array(readFileSync(at, { flag: constants.O_RDONLY | constants.O_NOFOLLOW }));
    case constants.S_IFLNK:
      return new Uint8Array(readlinkSync(at, "buffer"));
    default:
      throw new HearthError("unimplemented", `copy volume: ${at} is neither a directory nor a link nor a regular file`);
  }
}
