/** config-linux.md: devices, default devices, default links. */
import { prints, refuses, type Topic } from "../case.ts";

const SPEC = "config-linux.md#devices";
const DEFAULT = "config-linux.md#default-devices";
const ALLOW_ALL = { resources: { devices: [{ allow: true, access: "rwm" }] } };
const device = (members: object): { config: Record<string, unknown> } => ({
  config: { linux: { devices: [members], ...ALLOW_ALL } },
});
const stat = (path: string): string => `stat -c '%F %t %T %a %u %g' ${path}`;

export const DEVICES: Topic = {
  topic: "devices",
  cases: [
    ...[
      ["null", "1 3"],
      ["zero", "1 5"],
      ["full", "1 7"],
      ["random", "1 8"],
      ["urandom", "1 9"],
      ["tty", "5 0"],
    ].map(([name, numbers]) =>
      prints(`/dev/${name}`, DEFAULT, `stat -c '%F %t %T %a' /dev/${name}`, `character special file ${numbers} 666`),
    ),
    prints("/dev/ptmx", DEFAULT, "readlink /dev/ptmx", "pts/ptmx"),
    prints(
      "links of /dev",
      "runtime-linux.md#dev-symbolic-links",
      "for i in fd stdin stdout stderr; do readlink /dev/$i; done",
      "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2",
    ),
    prints(
      "default devices can be used",
      DEFAULT,
      "echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c",
      "3\n3",
      {
        config: { linux: { resources: { devices: [{ allow: false, access: "rwm" }] } } },
      },
    ),
    prints(
      "a character device",
      SPEC,
      stat("/dev/fuse"),
      "character special file a e5 640 5 6",
      device({ path: "/dev/fuse", type: "c", major: 10, minor: 229, fileMode: 0o640, uid: 5, gid: 6 }),
    ),
    prints(
      "a node for numbers that no device has",
      SPEC,
      stat("/dev/nobody"),
      "block special file 8 29a 640 5 6",
      device({ path: "/dev/nobody", type: "b", major: 8, minor: 666, fileMode: 0o640, uid: 5, gid: 6 }),
    ),
    prints(
      "an unbuffered character device",
      SPEC,
      "stat -c '%F %t %T' /dev/u",
      "character special file 1 3",
      device({ path: "/dev/u", type: "u", major: 1, minor: 3 }),
    ),
    prints("a fifo", SPEC, stat("/dev/pipe"), "fifo 0 0 600 0 0", {
      ...device({ path: "/dev/pipe", type: "p", fileMode: 0o600, uid: 0, gid: 0 }),
    }),
    prints(
      "a device outside of /dev",
      SPEC,
      "stat -c '%F %t %T' /srv/deep/zero",
      "character special file 1 5",
      device({ path: "/srv/deep/zero", type: "c", major: 1, minor: 5 }),
    ),
    prints(
      "a device whose path ends with a slash",
      SPEC,
      "stat -c '%F %t %T' /srv/zero",
      "character special file 1 5",
      device({ path: "/srv//zero/", type: "c", major: 1, minor: 5 }),
    ),
    prints(
      "a device with the mode of none given",
      SPEC,
      "test -c /dev/plain && echo there",
      "there",
      device({ path: "/dev/plain", type: "c", major: 1, minor: 3 }),
    ),
    prints("a device of the default ones given again", SPEC, stat("/dev/null"), "character special file 1 3 600 0 0", {
      ...device({ path: "/dev/null", type: "c", major: 1, minor: 3, fileMode: 0o600, uid: 0, gid: 0 }),
    }),
    refuses(
      "a device of a type that nobody knows",
      SPEC,
      undefined,
      device({ path: "/dev/x", type: "x", major: 1, minor: 3 }),
    ),
    refuses("a device without a type", SPEC, undefined, device({ path: "/dev/x", major: 1, minor: 3 })),
    refuses("a device with a relative path", SPEC, /absolute|path/, {
      ...device({ path: "dev/x", type: "c", major: 1, minor: 3 }),
      runcFails: "runc takes it from the root",
    }),
    prints(
      "the list of allowed devices: denied",
      "config-linux.md#allowed-device-list",
      "mknod /tmp/d b 7 0 2>/dev/null; cat /tmp/d 2>/dev/null || echo denied",
      "denied",
      {
        config: {
          linux: { resources: { devices: [{ allow: false, access: "rwm" }] } },
          process: { capabilities: { bounding: ["CAP_MKNOD"], effective: ["CAP_MKNOD"], permitted: ["CAP_MKNOD"] } },
        },
      },
    ),
    prints(
      "the list of allowed devices: an entry allows what the first denied",
      "config-linux.md#allowed-device-list",
      "mknod /tmp/tun c 10 200; mknod /tmp/fuse c 10 229; true <>/tmp/tun && echo opened; true 2>/dev/null <>/tmp/fuse || echo denied",
      "opened\ndenied",
      {
        config: {
          linux: {
            resources: {
              devices: [
                { allow: false, access: "rwm" },
                { allow: true, type: "c", major: 10, minor: 200, access: "rwm" },
              ],
            },
          },
          process: { capabilities: { bounding: ["CAP_MKNOD"], effective: ["CAP_MKNOD"], permitted: ["CAP_MKNOD"] } },
        },
      },
    ),
  ],
};
