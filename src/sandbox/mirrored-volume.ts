/**
 * Volumes that Kubernetes' node agent fills and changes: config maps, secrets, downward API, service account tokens. Programs
 * watch them by inotify, which over a shared file system tells of nothing that the host does. So the guest has a copy in
 * its memory, which Kata calls a watchable mount.
 */
import { type BigIntStats, constants, lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
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
    walkVolume(hostPath);
    return true;
  } catch (thrown) {
    if (thrown instanceof HearthError || isNotFound(thrown)) return false;
    throw thrown;
  }
}

/** All of it, each file after the directory that it is in. Fails as walkVolume. */
export function readVolume(hostPath: string, enter?: (directory: string) => void): VolumeFile[] {
  let room = MIRRORED_BYTES_MAX;
  return walkVolume(hostPath, enter).map(({ path, stats }) => {
    const { mode, uid, gid, mtimeNs } = stats;
    const data = contentOf(join(hostPath, path), typeOf(stats));
    room -= data.length;
    if (room < 0) throw tooMuch(hostPath, `${MIRRORED_BYTES_MAX} bytes`);
    return { path, mode: Number(mode), uid: Number(uid), gid: Number(gid), modified: mtimeNs, data };
  });
}

interface FoundFile {
  readonly path: string;
  readonly stats: BigIntStats;
}

/**
 * What is there, with its parents first; `enter` is called with each directory before it is looked into. Fails with
 * resource-exhausted when it is too much for a copy, with unimplemented for what is neither file nor directory nor link, or
 * not of the volume; with ENOENT when it changes meanwhile.
 */
function walkVolume(hostPath: string, enter: (directory: string) => void = () => undefined): FoundFile[] {
  const files: FoundFile[] = [];
  const root = lstatSync(hostPath, { bigint: true });
  let bytes = 0n;
  const take = (path: string): void => {
    if (files.length >= MIRRORED_FILES_MAX) throw tooMuch(hostPath, `${MIRRORED_FILES_MAX} files`);
    const at = join(hostPath, path);
    const stats = lstatSync(at, { bigint: true });
    const type = typeOf(stats);
    if (stats.dev !== root.dev) {
      throw new HearthError("unimplemented", `copy volume ${hostPath}: something is mounted in it`);
    }
    if (!COPIED.has(type)) {
      throw new HearthError("unimplemented", `copy volume: ${at} is neither a directory nor a link nor a regular file`);
    }
    files.push({ path, stats });
    if (type !== constants.S_IFDIR) {
      bytes += stats.size;
      if (bytes > MIRRORED_BYTES_MAX) throw tooMuch(hostPath, `${MIRRORED_BYTES_MAX} bytes`);
      return;
    }
    enter(at);
    for (const name of readdirSync(at).sort()) take(join(path, name));
  };
  take("");
  return files;
}

const COPIED: ReadonlySet<number> = new Set([constants.S_IFDIR, constants.S_IFLNK, constants.S_IFREG]);
const typeOf = ({ mode }: BigIntStats): number => Number(mode) & constants.S_IFMT;

const tooMuch = (hostPath: string, limit: string): HearthError =>
  new HearthError("resource-exhausted", `copy volume ${hostPath}: more than ${limit}`);

function contentOf(at: string, type: number): Uint8Array<ArrayBuffer> {
  if (type === constants.S_IFDIR) return new Uint8Array(0);
  if (type === constants.S_IFLNK) return new Uint8Array(readlinkSync(at, "buffer"));
  return new Uint8Array(readFileSync(at, { flag: constants.O_RDONLY | constants.O_NOFOLLOW }));
}
