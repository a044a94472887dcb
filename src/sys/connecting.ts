/** The end of a connect(2) that was begun on a non-blocking socket. */
import { DeadlineError, HearthError, SystemError } from "../errors.ts";
import type { DeadlineOptions } from "../util/wait.ts";
import type { Fd } from "./fd.ts";
import { check, errnoName, lazyLibc, struct } from "./libc.ts";
import { pollFd } from "./readiness.ts";

const SOL_SOCKET = 1;
const SO_ERROR = 4;

const libc = lazyLibc({ getsockopt: { args: ["i32", "i32", "i32", "ptr", "ptr"], returns: "i32" } });

/** Resolves when the socket is connected to what is called `name`; see connectError, DeadlineError after `timeoutMs`. */
export async function connected(fd: Fd, name: string, { signal, timeoutMs }: DeadlineOptions): Promise<void> {
  const late = new AbortController();
  const timer =
    timeoutMs === undefined ? undefined : setTimeout(() => late.abort(new DeadlineError(name, timeoutMs)), timeoutMs);
  const polled = pollFd(fd);
  try {
    await polled.wait("write", signal === undefined ? late.signal : AbortSignal.any([signal, late.signal]));
    const { bytes: value, view } = struct(4);
    const { bytes: length, view: lengthView } = struct(4);
    lengthView.setUint32(0, value.length, true);
    check(libc().getsockopt(fd, SOL_SOCKET, SO_ERROR, value, length), `connect ${name}`);
    const errno = view.getInt32(0, true);
    if (errno !== 0) throw connectError(errnoName(errno), name);
  } finally {
    clearTimeout(timer);
    polled.release();
  }
}

/** A peer that is not there, does not listen, or goes just then is one thing to the caller. */
export function connectError(errno: string, name: string): HearthError {
  return new HearthError("unavailable", `connect ${name}: ${errno}`, { cause: new SystemError(errno, "connect") });
}
