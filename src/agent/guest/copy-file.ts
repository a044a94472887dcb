/** CopyFile: writing a file of the guest piece by piece; it appears under its name when it is complete. */
import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join, normalize } from "node:path";
import { HearthError, isNotFound, toHearthError } from "../../errors.ts";
import type { CopyFileRequest } from "../../gen/agent_pb.ts";
import type { AgentPaths } from "../../paths.ts";

const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const S_IFLNK = 0o120000;

/**
 * Pieces come in order of their offsets, each in a call; the one that reaches `fileSize` completes the file. The mode's
 * file type says whether it is a directory, a symbolic link (its target is the data) or a file. Only below the agent's
 * directory, and through no symbolic link.
 */
export function copyFile(request: CopyFileRequest, paths: AgentPaths): void {
  const path = pathInAgentDirectory(request.path, paths);
  try {
    makeDirectories(dirname(path), paths.dir, request.dirMode === 0 ? 0o755 : request.dirMode & 0o7777);
    const temporary = join(dirname(path), `.${basename(path)}.copy`);
    switch (request.fileMode & S_IFMT) {
      case S_IFDIR:
        makeDirectories(path, paths.dir, 0o755);
        break;
      case S_IFLNK:
        rmSync(temporary, { force: true });
        symlinkSync(new TextDecoder().decode(request.data), temporary);
        renameSync(temporary, path);
        return;
      default:
        if (!writePiece(temporary, request)) return;
        renameSync(temporary, path);
    }
    chownSync(path, request.uid, request.gid);
    chmodSync(path, request.fileMode & 0o7777);
  } catch (thrown) {
    throw toHearthError(thrown, `copy file ${path}`);
  }
}

/** True when the file is complete. */
function writePiece(temporary: string, { offset, fileSize, data }: CopyFileRequest): boolean {
  const end = offset + BigInt(data.length);
  if (offset < 0n || fileSize < end) {
    throw new HearthError("invalid-argument", `piece from ${offset} to ${end} of a file of ${fileSize} bytes`);
  }
  const create = offset === 0n ? constants.O_CREAT | constants.O_TRUNC : 0;
  const fd = openSync(temporary, constants.O_WRONLY | constants.O_NOFOLLOW | create, 0o600);
  try {
    let at = 0;
    while (at < data.length) at += writeSync(fd, data, at, data.length - at, Number(offset) + at);
  } finally {
    closeSync(fd);
  }
  return end === fileSize;
}

/** The path, normalized; permission-denied for one that is not below the agent's directory. */
export function pathInAgentDirectory(path: string, { dir }: AgentPaths): string {
  const clean = normalize(path);
  const inside = clean.startsWith(`${dir}/`) && !clean.endsWith("/") && !path.includes("\0");
  if (inside && !path.split("/").includes("..")) return clean;
  throw new HearthError("permission-denied", `write to ${JSON.stringify(path)}: not below ${dir}`);
}

/** What is missing of a directory and those it is in is made; a symbolic link or a file on the way is refused. */
function makeDirectories(dir: string, root: string, mode: number): void {
  let at = root;
  for (const name of dir.slice(root.length).split("/")) {
    if (name === "") continue;
    at = join(at, name);
    try {
      if (!lstatSync(at).isDirectory()) throw new HearthError("permission-denied", `${at} is not a directory`);
    } catch (thrown) {
      if (!isNotFound(thrown)) throw thrown;
      mkdirSync(at, { mode });
    }
  }
}
