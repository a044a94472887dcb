import { expect, test } from "bun:test";
import { asFd, OwnedFd } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { check, lazyLibc, struct } from "../../src/sys/libc.ts";
import { sdNotify } from "../../src/sys/sd-notify.ts";
import { scratch } from "../harness/scratch.ts";

const libc = lazyLibc({
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  bind: { args: ["i32", "ptr", "u32"], returns: "i32" },
});

/** A bound datagram socket, as systemd's is. */
function receiver(name: string): FdReader {
  const fd = new OwnedFd(asFd(check(libc().socket(1, 2, 0), "make socket")));
  const { bytes, view } = struct(110);
  view.setUint16(0, 1, true);
  bytes.set(new TextEncoder().encode(name), 2);
  if (name.startsWith("@")) bytes[2] = 0;
  check(libc().bind(fd.fd, bytes, 2 + name.length + (name.startsWith("@") ? 0 : 1)), "bind socket");
  return new FdReader(fd);
}

test("the assignments arrive in one datagram, by path and in the abstract name space", async () => {
  using dir = scratch();
  for (const name of [dir.path("notify"), `@hearth-test-${crypto.randomUUID()}`]) {
    using reader = receiver(name);
    sdNotify(name, ["READY=1", "STATUS=2 of 2 vms ready"]);
    const datagram = await reader.read();
    expect(new TextDecoder().decode(datagram ?? undefined)).toBe("READY=1\nSTATUS=2 of 2 vms ready");
  }
});
