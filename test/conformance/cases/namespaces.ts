/** config-linux.md: namespaces, user namespace mappings, time offsets. */
import { bundleConfig } from "../../harness/bundle.ts";
import { type Case, prints, refuses, type Topic } from "../case.ts";

const SPEC = "config-linux.md#namespaces";
const MOUNTS = bundleConfig({ args: [] })["mounts"];
const STANDARD_MOUNTS = Array.isArray(MOUNTS) ? MOUNTS : [];
const STANDARD = ["pid", "network", "ipc", "uts", "mount"];
const namespaces = (types: readonly string[], linux: object = {}): { config: Record<string, unknown> } => ({
  config: { linux: { namespaces: types.map((type) => ({ type })), ...linux } },
});
const own = (file: string, type: string): Case => ({
  name: `a ${type} namespace of its own`,
  spec: SPEC,
  ...namespaces([...new Set([...STANDARD, type])]),
  files: { "rootfs/other": "" },
  args: ["/bin/sh", "-c", `readlink /proc/self/ns/${file} | sed 's/[0-9]*//g'`],
  steps: [{ run: ["run", "--bundle", "$BUNDLE", "$ID"], stdout: `${file}:[]` }],
});
/** Ids of the container are 100000 and up of outside. */
const MAPPINGS = [{ containerID: 0, hostID: 100_000, size: 70_000 }];
const userNamespace = (extra: object = {}): { config: { linux: object } & Record<string, unknown> } => ({
  config: {
    linux: {
      namespaces: [...STANDARD, "user"].map((type) => ({ type })),
      uidMappings: MAPPINGS,
      gidMappings: MAPPINGS,
      maskedPaths: [],
      readonlyPaths: [],
    },
    ...extra,
  },
});
const USER = "config-linux.md#user-namespace-mappings";
const IDMAP = {
  directories: ["src", "rootfs/m"],
  files: { "src/file": "" },
  runcFails: "id-mapped mounts came with runc 1.2",
};
const shared = (option?: string, mappings?: readonly object[]): { mounts: object[] } => ({
  mounts: [
    ...STANDARD_MOUNTS,
    {
      ...{ destination: "/m", type: "bind", source: "$DIR/src" },
      options: ["rbind", ...(option === undefined ? [] : [option])],
      ...(mappings === undefined ? {} : { uidMappings: mappings, gidMappings: mappings }),
    },
  ],
});
const OWNERS = "touch /m/new 2>/dev/null && stat -c '%u %g' /m/new; stat -c '%u %g' /m/file";
const EVERY_ID = [{ containerID: 0, hostID: 0, size: 0xffff_ffff }];
/** The host's root is the container's user 1. */
const SWAPPED_IDS = [
  { containerID: 0, hostID: 1, size: 1 },
  { containerID: 1, hostID: 0, size: 1 },
  { containerID: 2, hostID: 2, size: 0xffff_fffd },
];
const OVERRIDE = ["CAP_DAC_OVERRIDE"];
/** The interfaces, what is mounted for cgroups, and whether the mount is read-only. */
const SYSFS =
  "ls /sys/class/net; ls -A /sys/fs/cgroup | wc -l; awk '$5 == \"/sys\" {print substr($6, 1, 2)}' /proc/self/mountinfo";
const sysfsWith = (option: string) => [
  ...STANDARD_MOUNTS.filter(({ destination }) => !destination.startsWith("/sys")),
  { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", option] },
];
const TIME = "config-linux.md#offset-for-time-namespace";

const OLD_RUNC = "time namespaces came with runc 1.2";
const timeNamespace = (timeOffsets: object, types: readonly string[] = STANDARD) =>
  namespaces([...types, "time"], { timeOffsets });
/** Seconds since the boot, as the container's clock says. */
const UPTIME = "cut -d. -f1 /proc/uptime";
const TIME_CASES: readonly Case[] = [
  prints("a time namespace of its own", TIME, "readlink /proc/self/ns/time | sed 's/[0-9]*//g'", "time:[]", {
    ...timeNamespace({}),
    runcFails: OLD_RUNC,
  }),
  prints(
    "time offsets",
    TIME,
    "echo $$; tr -s ' ' < /proc/self/timens_offsets",
    "1\nmonotonic 1000000 5\nboottime 2000000 6",
    {
      ...timeNamespace({ monotonic: { secs: 1_000_000, nanosecs: 5 }, boottime: { secs: 2_000_000, nanosecs: 6 } }),
      runcFails: OLD_RUNC,
    },
  ),
  prints("the clock of a time namespace", TIME, `test $(${UPTIME}) -gt 5000000 && echo late`, "late", {
    ...timeNamespace({ boottime: { secs: 5_000_000 } }, ["network", "uts", "mount"]),
    runcFails: OLD_RUNC,
  }),
  {
    name: "what is executed in a container is in its time namespace",
    spec: TIME,
    ...timeNamespace({ boottime: { secs: 5_000_000 } }),
    steps: [
      { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] },
      { run: ["exec", "$ID", "/bin/sh", "-c", `test $(${UPTIME}) -gt 5000000 && echo late`], stdout: "late" },
      {
        run: ["exec", "$ID", "/bin/sh", "-c", "test /proc/self/ns/time -ef /proc/1/ns/time && echo same"],
        stdout: "same",
      },
      { run: ["update", "--pids-limit", "50", "$ID"] },
    ],
    runcFails: OLD_RUNC,
  },
  refuses("time offsets that the kernel refuses", TIME, /timeOffsets/, {
    ...timeNamespace({ boottime: { secs: -1_000_000_000 } }),
    runcFails: OLD_RUNC,
  }),
  refuses("offsets of a clock that has none", TIME, /timeOffsets/, {
    ...timeNamespace({ realtime: { secs: 5 } }),
    runcFails: OLD_RUNC,
  }),
  refuses("time offsets without a time namespace", TIME, /timeOffsets/, {
    ...namespaces(STANDARD, { timeOffsets: { boottime: { secs: 5 } } }),
    runcFails: "runc 1.1.5 ignores them",
  }),
];

export const NAMESPACES: Topic = {
  topic: "namespaces",
  cases: [
    own("pid", "pid"),
    own("net", "network"),
    own("ipc", "ipc"),
    own("uts", "uts"),
    own("mnt", "mount"),
    own("cgroup", "cgroup"),
    prints("the program is process 1 of its pid namespace", SPEC, "echo $$", "1"),
    prints(
      "without a pid namespace it is not",
      SPEC,
      "test $$ -gt 1 && echo other",
      "other",
      namespaces(["network", "ipc", "uts", "mount"]),
    ),
    prints(
      "without a UTS namespace the host name is the runtime's",
      SPEC,
      'test -n "$(hostname)" && echo some',
      "some",
      {
        config: {
          hostname: undefined,
          linux: { namespaces: ["pid", "network", "ipc", "mount"].map((type) => ({ type })) },
        },
      },
    ),
    prints("an empty network namespace has the loopback interface alone", SPEC, "ls /sys/class/net", "lo"),
    prints(
      "a cgroup namespace hides where the cgroup is",
      SPEC,
      "cut -d: -f3 /proc/self/cgroup | sort -u",
      "/",
      namespaces([...STANDARD, "cgroup"]),
    ),
    refuses(
      "a namespace given twice",
      SPEC,
      /duplicate|twice|more than once|malformed/i,
      namespaces([...STANDARD, "pid"]),
    ),
    refuses("a namespace that nobody knows", SPEC, /bogus/i, namespaces([...STANDARD, "bogus"])),
    refuses("no mount namespace", SPEC, undefined, namespaces(["pid", "network", "ipc", "uts"])),
    refuses("a path that is no namespace", SPEC, undefined, {
      files: { file: "" },
      config: {
        linux: {
          namespaces: [
            ...STANDARD.filter((type) => type !== "network").map((type) => ({ type })),
            { type: "network", path: "$DIR/file" },
          ],
        },
      },
    }),
    refuses("a path of a namespace that is missing", SPEC, undefined, {
      config: {
        linux: {
          namespaces: [
            ...STANDARD.filter((type) => type !== "network").map((type) => ({ type })),
            { type: "network", path: "$DIR/nothing" },
          ],
        },
      },
    }),
    refuses("a path of a namespace of another type", SPEC, undefined, {
      config: {
        linux: {
          namespaces: [
            ...STANDARD.filter((type) => type !== "network").map((type) => ({ type })),
            { type: "network", path: "/proc/1/ns/ipc" },
          ],
        },
      },
      alone: true,
    }),
    prints(
      "a user namespace: the container sees its own ids",
      USER,
      "echo $(id -u) $(id -g); awk '{print $1, $2, $3}' /proc/self/uid_map",
      "0 0\n0 100000 70000",
      userNamespace(),
    ),
    prints(
      "a user namespace: gid mappings",
      USER,
      "awk '{print $1, $2, $3}' /proc/self/gid_map",
      "0 100000 70000",
      userNamespace(),
    ),
    prints(
      "a user namespace: another user",
      USER,
      "echo $(id -u) $(id -g)",
      "5 6",
      userNamespace({ process: { user: { uid: 5, gid: 6 } } }),
    ),
    {
      name: "a user namespace: files belong to the outer ids",
      spec: USER,
      args: ["/bin/sh", "-c", "touch /m/x && stat -c '%u %g' /m/x"],
      directories: ["rootfs/m"],
      ...userNamespace({
        process: { user: { uid: 0, gid: 0 } },
        mounts: [...STANDARD_MOUNTS, { destination: "/m", type: "tmpfs", source: "tmpfs", options: ["mode=777"] }],
      }),
      steps: [{ run: ["run", "--bundle", "$BUNDLE", "$ID"], stdout: "0 0" }],
    },
    prints(
      "a user namespace: a sysfs that can be written",
      USER,
      SYSFS,
      "lo\n0\nrw",
      userNamespace({ mounts: sysfsWith("rw") }),
    ),
    prints(
      "a user namespace of every id: a sysfs",
      USER,
      `${SYSFS}; cut -c-10 /proc/self/uid_map`,
      /^lo\n0\nro\n +0$/,
      {
        config: {
          mounts: sysfsWith("ro"),
          linux: { ...userNamespace().config["linux"], uidMappings: EVERY_ID, gidMappings: EVERY_ID },
        },
      },
    ),
    prints(
      "a user namespace: its root has ports below 1024",
      USER,
      "httpd -p 81 && echo bound",
      "bound",
      userNamespace(),
    ),
    prints(
      "a user namespace: its root makes what is missing in directories of other mapped ids",
      USER,
      "mkdir /made; stat -c %u / /made; grep -c ' /missing/point ' /proc/self/mountinfo",
      "1\n0\n1",
      {
        config: {
          mounts: [...STANDARD_MOUNTS, { destination: "/missing/point", type: "tmpfs", source: "tmpfs" }],
          process: { capabilities: { bounding: OVERRIDE, effective: OVERRIDE, permitted: OVERRIDE } },
          linux: { ...userNamespace().config["linux"], uidMappings: SWAPPED_IDS, gidMappings: SWAPPED_IDS },
        },
      },
    ),
    prints("a user namespace: owners of an id-mapped mount are its own", USER, OWNERS, "0 0\n0 0", {
      ...IDMAP,
      ...userNamespace(shared("idmap")),
    }),
    prints("a user namespace: owners of a mount that is not", USER, OWNERS, "65534 65534", {
      directories: ["src", "rootfs/m"],
      files: { "src/file": "" },
      ...userNamespace(shared()),
    }),
    prints("a user namespace: owners of a mount with mappings of its own", USER, OWNERS, "7 7", {
      ...IDMAP,
      ...userNamespace(shared("idmap", [{ containerID: 0, hostID: 100_007, size: 1 }])),
    }),
    prints(
      "a user namespace: flags of bind mounts",
      USER,
      "awk '$5 ~ \"^/[df]$\" {print $6}' /proc/self/mountinfo",
      "rw,nosuid,nodev,noexec,relatime\nrw,nosuid,nodev,noexec,relatime\nro,noexec,relatime",
      {
        directories: ["dir", "rootfs/d"],
        files: { file: "", "rootfs/f": "" },
        ...userNamespace({
          mounts: [
            ...STANDARD_MOUNTS,
            { destination: "/d", source: "$DIR/dir", options: ["rbind", "nosuid", "nodev", "noexec"] },
            { destination: "/f", source: "$DIR/file", options: ["bind", "nosuid", "nodev", "noexec"] },
            { destination: "/f", source: "$DIR/file", options: ["bind", "ro", "noexec"] },
          ],
        }),
      },
    ),
    refuses("mappings without a user namespace", USER, undefined, {
      config: { linux: { uidMappings: MAPPINGS, gidMappings: MAPPINGS } },
      runcFails: "runc 1.1.5 ignores them",
    }),
    refuses("a user namespace without mappings", USER, undefined, namespaces([...STANDARD, "user"])),
    ...TIME_CASES,
  ],
};
