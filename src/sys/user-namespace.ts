/** A user namespace that nobody is in: what names one by a descriptor, as an id-mapped mount does, needs no more. */
import { writeFileSync, writeSync } from "node:fs";
import { HearthError, toHearthError } from "../errors.ts";
import { O_RDONLY, type OwnedFd, openFd, pipe } from "./fd.ts";
import { FdReader } from "./fd-reader.ts";
import { type ChildProcess, describeExit, spawnProcess, terminate } from "./process.ts";

/** So many ids from the first one inside, and from the first one outside. */
export interface IdRange {
  readonly containerID: number;
  readonly hostID: number;
  readonly size: number;
}

/**
 * Makes one with these users and groups; it lives as long as the descriptor, or what has been made with it. A process has to
 * be born in it, for no thread of a process with others may leave its user namespace: one of unshare(1)'s, which then says what it hears.
 * Fails with invalid-argument for ranges that the kernel does not take.
 */
export async function makeUserNamespace(uids: readonly IdRange[], gids: readonly IdRange[]): Promise<OwnedFd> {
  const input = pipe();
  using writeEnd = input.writeEnd;
  const output = pipe({ nonBlockingRead: true });
  using reader = new FdReader(output.readEnd);
  let child: ChildProcess;
  try {
    const argv = ["unshare", "--user", "--", "cat"] as const;
    child = spawnProcess({ argv, stdio: [input.readEnd.fd, output.writeEnd.fd] });
  } finally {
    input.readEnd.close();
    output.writeEnd.close();
  }
  try {
    writeSync(writeEnd.fd, ".");
    if ((await reader.read()) === null) {
      throw new HearthError("internal", `make user namespace: unshare: ${describeExit(await child.exited)}`);
    }
    writeMap(`/proc/${child.pid}/uid_map`, uids);
    writeMap(`/proc/${child.pid}/gid_map`, gids);
    return openFd(`/proc/${child.pid}/ns/user`, O_RDONLY);
  } finally {
    await terminate(child, { graceMs: 0 });
  }
}

/** The kernel takes all of it in one write. Source: user_namespaces(7). */
function writeMap(path: string, ranges: readonly IdRange[]): void {
  const lines = ranges.map(({ containerID, hostID, size }) => `${containerID} ${hostID} ${size}\n`);
  try {
    writeFileSync(path, lines.join(""));
  } catch (thrown) {
    throw toHearthError(thrown, "map users of a user namespace");
  }
}
