import { expect, test } from "bun:test";
import { MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC, MS_SHARED } from "../../sys/mount.ts";
import { parseMountOptions } from "./mount-options.ts";

test.each([
  [[], 0, [], ""],
  [["ro", "nosuid", "nodev", "noexec"], MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, [], ""],
  [["ro", "rw", "nosuid", "suid", "defaults"], 0, [], ""],
  [["rbind", "rprivate", "shared"], MS_BIND | MS_REC, [MS_PRIVATE | MS_REC, MS_SHARED], ""],
  [
    ["trans=virtio", "ro", "version=9p2000.L", "", "msize=8192"],
    MS_RDONLY,
    [],
    "trans=virtio,version=9p2000.L,msize=8192",
  ],
  [["toString", "constructor"], 0, [], "toString,constructor"],
])("%p", (options, flags, propagation, data) => {
  expect(parseMountOptions(options)).toEqual({ flags, propagation, data });
});
