/** Telling systemd how a service is: one datagram to the socket it names (sd_notify(3)); and whether it watches us. */
import { SystemError } from "../errors.ts";
import { asFd, OwnedFd } from "./fd.ts";
import { check, lastErrno, lazyLibc, struct } from "./libc.ts";

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const SUN_PATH_OFFSET = 2;
const SOCKADDR_UN_BYTES = 110;

const libc = lazyLibc({
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  sendto: { args: ["i32", "ptr", "u64", "i32", "ptr", "u32"], returns: "i64" },
});

/**
 * Sends assignments such as "READY=1" to `socketPath`, the value of NOTIFY_SOCKET; a leading "@" is the abstract name
 * space. Fails with a SystemError when nobody listens there.
 */
export function sdNotify(socketPath: string, assignments: readonly string[]): void {
  const name = new TextEncoder().encode(socketPath);
  if (name.length === 0 || name.length > SOCKADDR_UN_BYTES - SUN_PATH_OFFSET) {
    throw new SystemError("ENAMETOOLONG", `notify ${socketPath}`);
  }
  const { bytes: address, view } = struct(SOCKADDR_UN_BYTES);
  view.setUint16(0, AF_UNIX, true);
  address.set(name, SUN_PATH_OFFSET);
  const isAbstract = socketPath.startsWith("@");
  if (isAbstract) address[SUN_PATH_OFFSET] = 0;
  const message = new TextEncoder().encode(assignments.join("\n"));
  using socket = new OwnedFd(asFd(check(libc().socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "make socket")));
  const addressBytes = SUN_PATH_OFFSET + name.length + (isAbstract ? 0 : 1);
  const sent = libc().sendto(
    socket.fd,
    message,
    BigInt(message.length),
    MSG_DONTWAIT | MSG_NOSIGNAL,
    address,
    Math.min(addressBytes, SOCKADDR_UN_BYTES),
  );
  if (Number(sent) < 0) throw new SystemError(lastErrno(), `notify ${socketPath}`);
}

/**
 * Milliseconds without a "WATCHDOG=1" after which systemd ends the process `pid`; undefined when it does not watch it.
 * Source: sd_watchdog_enabled(3).
 */
export function watchdogTimeoutMs(
  environment: Readonly<Record<string, string | undefined>>,
  pid: number,
): number | undefined {
  const watched = environment["WATCHDOG_PID"];
  const text = environment["WATCHDOG_USEC"] ?? "";
  if ((watched !== undefined && watched !== String(pid)) || !/^[1-9]\d{0,14}$/.test(text)) return undefined;
  return Math.max(1, Math.floor(Number(text) / 1000));
}
