/** MirrorVolume: a volume in the guest's memory becomes what one of the host's is, by changes that its watchers (inotify) are told of. */
import {
  chmodSync,
  chownSync,
  constants,
  lchownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  type Stats,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { HearthError, isNotFound, toHearthError } from "../../errors.ts";
import type { MirroredFile, MirrorVolumeRequest } from "../../gen/agent_pb.ts";
import type { AgentPaths } from "../../paths.ts";
import { pathInAgentDirectory } from "./copy-file.ts";

const NANOSECONDS_PER_SECOND = 1e9;
/** Of a name, while what it is to stand for is being made: as kubelet calls it. */
const TEMPORARY_SUFFIX = "_tmp";

/**
 * In kubelet's order, and by its means: new files, then links, which take another's place by a rename, and what is no longer
 * wanted goes last. So whoever reads through the link `..data` finds all old files or all new ones, and who watches is told
 * what a watcher on the host is.
 */
export function mirrorVolume({ mountPoint, files }: MirrorVolumeRequest, paths: AgentPaths): void {
  const root = pathInAgentDirectory(mountPoint, paths);
  for (const { path } of files) checkPath(path);
  try {
    const links = files.filter(({ mode }) => typeOf(mode) === constants.S_IFLNK);
    for (const file of files) if (typeOf(file.mode) !== constants.S_IFLNK) put(join(root, file.path), file);
    for (const link of links) putLink(join(root, link.path), link);
    removeOthers(root, "", new Set(files.map(({ path }) => path)));
  } catch (thrown) {
    throw toHearthError(thrown, `mirror volume at ${root}`);
  }
}

const typeOf = (mode: number): number => mode & constants.S_IFMT;

/** Relative, and plain: none of it leads out of the volume. */
function checkPath(path: string): void {
  const parts = path.split("/");
  const isPlain = !path.includes("\0") && !parts.some((part) => part === "" || part === "." || part === "..");
  if (path !== "" && !isPlain) {
    throw new HearthError("invalid-argument", `mirror volume: ${JSON.stringify(path)} is not a plain relative path`);
  }
}

function put(at: string, file: MirroredFile): void {
  const found = lookAt(at);
  switch (typeOf(file.mode)) {
    case constants.S_IFDIR:
      putDirectory(at, file, found);
      break;
    case constants.S_IFREG:
      putContent(at, file, found);
      break;
    default:
      throw new HearthError("invalid-argument", `${file.path} is neither a directory nor a link nor a regular file`);
  }
}

function putDirectory(at: string, file: MirroredFile, found: Stats | undefined): void {
  if (found?.isDirectory() === true) {
    give(at, file, found);
    return;
  }
  rmSync(at, { force: true });
  mkdirSync(at, { mode: 0o700 });
  give(at, file, undefined);
}

function putContent(at: string, file: MirroredFile, found: Stats | undefined): void {
  if (found?.isFile() === true && Buffer.compare(readFileSync(at), file.data) === 0) {
    give(at, file, found);
    return;
  }
  replace(at, found, (path) => {
    writeFileSync(path, file.data, { flag: "wx", mode: 0o600 });
    give(path, file, undefined);
  });
}

/** Made under its name where there is nothing; else under another one that takes its place. */
function replace(at: string, found: Stats | undefined, make: (path: string) => void): void {
  if (found === undefined) {
    make(at);
    return;
  }
  if (found.isDirectory()) rmSync(at, { recursive: true });
  const temporary = `${at}${TEMPORARY_SUFFIX}`;
  rmSync(temporary, { recursive: true, force: true });
  make(temporary);
  renameSync(temporary, at);
}

/** Owner, mode and, of a file, time of change; what is so already is left alone, and nobody told of it. */
function give(at: string, { mode, uid, gid, modified }: MirroredFile, found: Stats | undefined): void {
  if (found?.uid !== uid || found.gid !== gid) chownSync(at, uid, gid);
  // After the owner, whose change takes set-id bits away.
  if (found === undefined || (found.mode & 0o7777) !== (mode & 0o7777)) chmodSync(at, mode & 0o7777);
  if (typeOf(mode) !== constants.S_IFREG) return;
  const seconds = Number(modified) / NANOSECONDS_PER_SECOND;
  if (found === undefined || Math.abs(found.mtimeMs / 1000 - seconds) > TIME_TOLERANCE_S) {
    utimesSync(at, seconds, seconds);
  }
}

/** Of a time that went through floating-point numbers. */
const TIME_TOLERANCE_S = 0.000_01;

function putLink(at: string, { data, uid, gid }: MirroredFile): void {
  const target = new TextDecoder().decode(data);
  const found = lookAt(at);
  if (found?.isSymbolicLink() === true && readlinkSync(at) === target) {
    if (found.uid !== uid || found.gid !== gid) lchownSync(at, uid, gid);
    return;
  }
  replace(at, found, (path) => {
    symlinkSync(target, path);
    lchownSync(path, uid, gid);
  });
}

function lookAt(at: string): Stats | undefined {
  try {
    return lstatSync(at);
  } catch (thrown) {
    if (isNotFound(thrown)) return undefined;
    throw thrown;
  }
}

function removeOthers(root: string, dir: string, wanted: ReadonlySet<string>): void {
  for (const entry of readdirSync(join(root, dir), { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (!wanted.has(path)) rmSync(join(root, path), { recursive: true, force: true });
    else if (entry.isDirectory()) removeOthers(root, path, wanted);
  }
}
