/** Receives datagrams as systemd does. */
import { asFd, OwnedFd } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { check, lazyLibc, struct } from "../../src/sys/libc.ts";

const libc = lazyLibc({
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
});

/** A bound datagram socket, as systemd's NOTIFY_SOCKET; each read is one datagram. A leading "@" is the abstract name space. */
export function datagramReceiver(name: string): FdReader {
  const fd = new OwnedFd(asFd(check(libc().socket(1, 2, 0), "make socket")));
  const { bytes, view } = struct(110);
  view.setUint16(0, 1, true);
  bytes.set(new TextEncoder().encode(name), 2);
  if (name.startsWith("@")) bytes[2] = 0;
  check(libc().bind(fd.fd, bytes, 2 + name.length + (name.startsWith("@") ? 0 : 1)), "bind socket");
  return new FdReader(fd);
}
