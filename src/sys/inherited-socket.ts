/** The listening socket that systemd opened and passed on as descriptor 3. Source: sd_listen_fds(3). */
import { lstatSync } from "node:fs";
import { HearthError, toHearthError } from "../errors.ts";
import { asFd, fdKind, OwnedFd, setCloseOnExec, setNonBlocking } from "./fd.ts";
import { check, fromCString, lazyLibc, struct } from "./libc.ts";

/** Source: sd-daemon.h. */
const LISTEN_FDS_START = 3;
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOL_SOCKET = 1;
/** Source: asm-generic/socket.h. */
const SO_TYPE = 3;
const SO_ACCEPTCONN = 30;
const SOCKADDR_UN_BYTES = 110;
const SUN_PATH_OFFSET = 2;

const libc = lazyLibc({
  getsockname: { args: ["i32", "ptr", "ptr"], returns: "i32" },
  getsockopt: { args: ["i32", "i32", "i32", "ptr", "ptr"], returns: "i32" },
});

export interface InheritedSocket {
  /** Non-blocking, closed in children. */
  readonly socket: OwnedFd;
  /** Where it is bound; whoever bound it removes the file. */
  readonly path: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Undefined when the environment passes nothing to the process `pid`. Fails with "invalid-argument" when it is not exactly
 * one listening unix stream socket, with "permission-denied" when others than the owner may connect to it.
 */
export function inheritedSocket(environment: Environment, pid: number): InheritedSocket | undefined {
  const count = inheritedCount(environment, pid);
  if (count === 0) return undefined;
  if (count !== 1)
    throw new HearthError("invalid-argument", `take inherited socket: ${count} were passed, one is wanted`);
  if (fdKind(asFd(LISTEN_FDS_START)) !== "socket") {
    throw new HearthError("invalid-argument", `take inherited socket: descriptor ${LISTEN_FDS_START} is none`);
  }
  const socket = new OwnedFd(asFd(LISTEN_FDS_START));
  setCloseOnExec(socket.fd, true);
  const path = listeningPath(socket);
  assertPrivate(path);
  setNonBlocking(socket.fd, true);
  return { socket, path };
}

/** How many descriptors are meant for the process; variables that name another process are a leftover of a parent's. */
export function inheritedCount(environment: Environment, pid: number): number {
  if (environment["LISTEN_PID"] !== String(pid)) return 0;
  const text = environment["LISTEN_FDS"] ?? "";
  if (!/^\d{1,4}$/.test(text)) {
    throw new HearthError("invalid-argument", `take inherited socket: LISTEN_FDS is ${JSON.stringify(text)}`);
  }
  return Number(text);
}

function listeningPath({ fd }: OwnedFd): string {
  const { bytes, view } = struct(SOCKADDR_UN_BYTES);
  const length = new Uint32Array([SOCKADDR_UN_BYTES]);
  check(libc().getsockname(fd, bytes, length), "take inherited socket");
  const isStream = socketOption(fd, SO_TYPE) === SOCK_STREAM && socketOption(fd, SO_ACCEPTCONN) === 1;
  const path = fromCString(bytes.subarray(SUN_PATH_OFFSET, length[0]));
  if (view.getUint16(0, true) !== AF_UNIX || !isStream || !path.startsWith("/")) {
    throw new HearthError("invalid-argument", "take inherited socket: it is not a listening unix socket with a path", {
      hint: "ListenStream= must be the path of [factory] vm_cache_endpoint",
    });
  }
  return path;
}

function socketOption(fd: number, option: number): number {
  const value = new Int32Array(1);
  check(libc().getsockopt(fd, SOL_SOCKET, option, value, new Uint32Array([value.byteLength])), "take inherited socket");
  return value[0] ?? 0;
}

/** Who may connect may take VMs. */
function assertPrivate(path: string): void {
  let mode: number;
  try {
    mode = lstatSync(path).mode & 0o777;
  } catch (thrown) {
    throw toHearthError(thrown, `take inherited socket ${path}`);
  }
  if ((mode & 0o077) === 0) return;
  throw new HearthError("permission-denied", `take inherited socket ${path}: its mode is 0${mode.toString(8)}`, {
    hint: "set SocketMode=0600 in the socket unit",
  });
}
