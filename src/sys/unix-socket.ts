/** Unix stream sockets by path: connecting, and listening in a way that survives a predecessor's leftovers. */
import { lstatSync, renameSync, unlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { HearthError, isNotFound, SystemError, toHearthError } from "../errors.ts";
import { SOCKET_LISTEN_LOCK_MS, SOCKET_PATH_BYTES_MAX, SOCKET_PROBE_MS } from "../limits.ts";
import { type DeadlineOptions, withDeadline } from "../util/wait.ts";
import type { ByteStream } from "./byte-stream.ts";
import { O_DIRECTORY, O_RDONLY, type OwnedFd, openFd } from "./fd.ts";
import { lockDirectory } from "./lock.ts";
import { acceptHandlers, SocketStream, STREAM_HANDLERS } from "./socket-stream.ts";

/** Refuses a path that does not fit sun_path; the kernel, or Bun, would cut it or speak of something else. */
export function assertSocketPath(path: string): void {
  const bytes = new TextEncoder().encode(path).length;
  if (bytes === 0 || path.includes("\0")) {
    throw new HearthError("invalid-argument", `use socket path ${JSON.stringify(path)}: not a path`);
  }
  if (bytes > SOCKET_PATH_BYTES_MAX) {
    throw new HearthError("invalid-argument", `use socket path ${path}: longer than ${SOCKET_PATH_BYTES_MAX} bytes`, {
      facts: { bytes },
      hint: "choose a shorter run directory",
    });
  }
}

/**
 * A stream to the server that listens on `path`. "not-found" when there is no such socket, "unavailable" when nobody
 * answers on it, DeadlineError after `timeoutMs`.
 */
export async function connectUnix(path: string, options: DeadlineOptions = {}): Promise<ByteStream> {
  assertSocketPath(path);
  options.signal?.throwIfAborted();
  const stream = new SocketStream(`socket ${path}`);
  const connecting = Bun.connect({ unix: path, data: stream, allowHalfOpen: true, socket: STREAM_HANDLERS });
  try {
    await withDeadline(`connection to ${path}`, connecting, options);
    return stream;
  } catch (thrown) {
    stream.close();
    if (options.signal?.aborted === true) throw thrown;
    throw toHearthError(thrown, `connect ${path}`);
  }
}

export interface UnixListener extends AsyncDisposable {
  readonly path: string;
  /** Stops accepting and removes the socket file if it is still ours. Connections go on: their receiver owns them. Idempotent. */
  close(): void;
}

/**
 * Listens on `path` with mode 0600 and calls `onConnection` with each new stream, which it then owns. A socket file
 * that nobody answers on is replaced; one that somebody answers on, or a file that is no socket, is "already-exists".
 */
export function listenUnix(path: string, onConnection: (stream: ByteStream) => void): Promise<UnixListener> {
  return bindUnix(path, (unix) => Bun.listen<SocketStream>({ unix, ...acceptOptions(path, onConnection) }));
}

interface SocketServer {
  stop(closeActiveConnections: boolean): unknown;
}

/** As listenUnix, for a server of any kind: `bind` makes it listen on the path it is given, which is not `path` yet. */
export async function bindUnix(path: string, bind: (path: string) => SocketServer): Promise<UnixListener> {
  assertSocketPath(path);
  // Two servers that both find the stale file must not both replace it.
  using _turn = await lockDirectory(dirname(path), { timeoutMs: SOCKET_LISTEN_LOCK_MS });
  await assertNobodyAnswers(path);
  const server = bindPrivately(path, bind);
  const own = fileIdentity(path);
  let open = true;
  const close = (): void => {
    if (!open) return;
    open = false;
    if (own !== undefined && fileIdentity(path) === own) removeFile(path);
    server.stop(false);
  };
  return {
    path,
    close,
    async [Symbol.asyncDispose]() {
      close();
    },
  };
}

/** As listenUnix on a socket that somebody else bound to `path` and keeps: its file stays. Owns the descriptor from now on. */
export function listenInherited(
  socket: OwnedFd,
  path: string,
  onConnection: (stream: ByteStream) => void,
): UnixListener {
  const server = Bun.listen<SocketStream>({ fd: socket.release(), ...acceptOptions(path, onConnection) });
  const close = (): void => server.stop(false);
  return {
    path,
    close,
    async [Symbol.asyncDispose]() {
      close();
    },
  };
}

async function assertNobodyAnswers(path: string): Promise<void> {
  let found: ReturnType<typeof lstatSync>;
  try {
    found = lstatSync(path);
  } catch (thrown) {
    if (isNotFound(thrown)) return;
    throw toHearthError(thrown, `listen on ${path}`);
  }
  if (!found.isSocket()) {
    throw new HearthError("already-exists", `listen on ${path}: a file is there that is not a socket`);
  }
  try {
    const stream = await connectUnix(path, { timeoutMs: SOCKET_PROBE_MS });
    stream.close();
  } catch (thrown) {
    if (thrown instanceof SystemError && (thrown.errno === "ECONNREFUSED" || thrown.errno === "ENOENT")) return;
    throw toHearthError(thrown, `listen on ${path}`);
  }
  throw new HearthError("already-exists", `listen on ${path}: another server answers there`);
}

/**
 * Binds under a temporary name and renames: the socket appears under its path with its final mode and a listener, a
 * stale file is replaced in the same step, and Bun, which unlinks the name it bound whoever owns it by then, finds
 * nothing to unlink. The name goes through a descriptor of the directory, so it is short however long the path is.
 */
function bindPrivately(path: string, bind: (path: string) => SocketServer): SocketServer {
  const dir = dirname(path);
  using dirFd = openFd(dir, O_RDONLY | O_DIRECTORY);
  const name = `.${crypto.randomUUID()}.tmp`;
  const umask = process.umask(0o177);
  let server: SocketServer;
  try {
    server = bind(`/proc/self/fd/${dirFd.fd}/${name}`);
  } catch (thrown) {
    throw toHearthError(thrown, `listen on ${path}`);
  } finally {
    process.umask(umask);
  }
  try {
    renameSync(join(dir, name), path);
    return server;
  } catch (thrown) {
    server.stop(true);
    removeFile(join(dir, name));
    throw toHearthError(thrown, `listen on ${path}`);
  }
}

function acceptOptions(path: string, onConnection: (stream: ByteStream) => void) {
  return { allowHalfOpen: true, socket: acceptHandlers(`connection on ${path}`, onConnection) } as const;
}

/** Device and inode of a file; undefined when it is not there. */
function fileIdentity(path: string): string | undefined {
  const found = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return found === undefined ? undefined : `${found.dev}:${found.ino}`;
}

function removeFile(path: string): void {
  try {
    unlinkSync(path);
  } catch (thrown) {
    if (!isNotFound(thrown)) throw toHearthError(thrown, `remove ${path}`);
  }
}
