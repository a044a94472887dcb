/** The right to serve an endpoint: a private directory, locks against a second server, and clear words when one is there. */
import { ftruncateSync, readFileSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { HearthError, toHearthError } from "../errors.ts";
import { cacheEndpointLock, cacheServerLock } from "../paths.ts";
import { type FileLock, tryLock } from "../sys/lock.ts";
import { makePrivateDirectory } from "../sys/private-directory.ts";
import { assertSocketPath } from "../sys/unix-socket.ts";
import { probePool } from "./control.ts";

/**
 * The locks that make this process the server of the endpoint and of the run directory's idle VMs; the caller holds them
 * as long as it serves. Fails with "already-exists", naming the pid, when another server lives.
 */
export function claimEndpoint(endpoint: string, runDir: string): AsyncDisposable {
  assertSocketPath(endpoint);
  makePrivateDirectory(dirname(endpoint));
  makePrivateDirectory(runDir);
  const stack = new AsyncDisposableStack();
  try {
    stack.use(lockAsServer(cacheEndpointLock(endpoint), `serve pool on ${endpoint}`));
    stack.use(lockAsServer(cacheServerLock(runDir), `serve pool of run directory ${runDir}`));
    return stack;
  } catch (thrown) {
    void stack.disposeAsync();
    throw thrown;
  }
}

function lockAsServer(path: string, what: string): FileLock {
  const lock = tryLock(path);
  if (lock === undefined) {
    throw new HearthError("already-exists", `${what}: the server with pid ${readPid(path)} does`, {
      hint: "stop it with: hearth vmcache stop",
    });
  }
  ftruncateSync(lock.fd, 0);
  writeSync(lock.fd, `${process.pid}\n`, 0);
  return lock;
}

function readPid(path: string): string {
  try {
    const text = readFileSync(path, "utf8").trim();
    return /^\d+$/.test(text) ? text : "unknown";
  } catch {
    return "unknown";
  }
}

/** After listening failed because somebody answers there who does not hold our lock: who is it? */
export async function describeOccupant(endpoint: string, thrown: unknown): Promise<HearthError> {
  const error = toHearthError(thrown, `listen on ${endpoint}`);
  if (error.code !== "already-exists") return error;
  const pid = await probePool(endpoint);
  const who = pid === undefined ? "a program that is no pool server answers there" : `the server with pid ${pid} does`;
  return new HearthError("already-exists", `serve pool on ${endpoint}: ${who}`, { cause: error });
}
