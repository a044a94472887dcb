/** config.md: mounts, and the file systems of config-linux.md. */
import { readFileSync } from "node:fs";
import { bundleConfig } from "../../harness/bundle.ts";
import { type Case, prints, refuses, type Topic } from "../case.ts";

const SPEC = "config.md#mounts";
const STANDARD = bundleConfig({ args: [] })["mounts"];
const mounts = (...more: readonly object[]): { config: Record<string, unknown> } => ({
  config: { mounts: [...(Array.isArray(STANDARD) ? STANDARD : []), ...more] },
});
const tmpfs = (options: readonly string[], destination = "/m"): object => ({
  destination,
  type: "tmpfs",
  source: "tmpfs",
  options,
});
const bind = (options: readonly string[], source = "$DIR/src", destination = "/m"): object => ({
  destination,
  type: "bind",
  source,
  options,
});
const overlay = (options: readonly string[]): object => ({
  destination: "/m",
  type: "overlay",
  source: "overlay",
  options,
});
/** The options of what is mounted at /m. */
const OPTIONS = "awk '$5 == \"/m\" {print $6}' /proc/self/mountinfo | tail -1";
const SUPER_OPTIONS = "grep ' /m ' /proc/self/mountinfo | tail -1 | sed 's/.* - //'";
const PROPAGATION = "grep ' /m ' /proc/self/mountinfo | tail -1 | sed 's/ - .*//' | cut -d' ' -f7- | tr -d '0-9'";

/** Whether a flag is among the options of a tmpfs mounted with `given`. */
const flag = (given: string, shows: RegExp): Case =>
  prints(`${given} of a file system`, SPEC, OPTIONS, shows, mounts(tmpfs([given])));
const bindFlag = (given: string, shows: RegExp): Case =>
  prints(`${given} of a bind mount`, SPEC, OPTIONS, shows, {
    directories: ["src"],
    ...mounts(bind(["rbind", given])),
  });
const OPPOSITE = ["ro", "nosuid", "nodev", "noexec", "rw", "suid", "dev", "exec"];
/** As dockerd's `rro` for every read-only volume, which may be one file. */
const fileFlag = (given: string, shows: RegExp): Case =>
  prints(`${given} of a mounted file`, SPEC, OPTIONS, shows, { files: { src: "" }, ...mounts(bind(["bind", given])) });
const propagation = (given: string, shows: string): Case =>
  prints(`propagation ${given}`, SPEC, PROPAGATION, shows, mounts(tmpfs([given])));
/** An option that the kernel does not show: the mount works all the same. */
const taken = (given: string): Case =>
  prints(`${given} is taken`, SPEC, "touch /m/x && echo ok", "ok", mounts(tmpfs([given])));

const TWO_TIMES = "runc 1.1.5 asks the kernel for what it refuses";
const OLD_IDMAP = "id-mapped mounts came with runc 1.2";
const KEPT = "rw,nosuid,noexec,relatime\nrw,nosuid,noexec,relatime";
const ROOT = "bin\ndev\nfile\nproc\ncat";
const BUSYBOX = readFileSync("/bin/busybox");
const OVERFLOW = "Value too large for defined data type";
const OVERRIDE = ["CAP_DAC_OVERRIDE"];
const ids = (hostID: number): object[] => [{ containerID: 0, hostID, size: 10 }];
const MAPPED = { uidMappings: ids(1000), gidMappings: ids(2000) };

const NESTED = {
  directories: ["src/inner"],
  files: { "src/file": "outer\n", "src/inner/file": "inner\n" },
} as const;

export const MOUNTS: Topic = {
  topic: "mounts",
  cases: [
    prints("in the listed order", SPEC, "ls /m", "second", mounts(tmpfs([]), tmpfs([], "/m/second"))),
    prints(
      "a later mount hides an earlier one",
      SPEC,
      "ls /m",
      "",
      mounts(tmpfs([]), tmpfs([], "/m/hidden"), tmpfs([])),
    ),
    prints(
      "a bind mount tells the name of what is mounted",
      SPEC,
      "awk '$5 == \"/m\" {print $4}' /proc/self/mountinfo | sed 's:.*/::'",
      "src",
      { directories: ["src"], ...mounts(bind(["rbind"])) },
    ),
    prints(
      "a mount point that is missing is made",
      SPEC,
      "test -d /made/deep && touch /made/deep/x && echo ok",
      "ok",
      mounts(tmpfs([], "/made/deep")),
    ),
    prints(
      "a relative destination is below the root",
      SPEC,
      "grep -c ' /rel ' /proc/self/mountinfo",
      "1",
      mounts(tmpfs([], "rel")),
    ),
    prints(
      "a destination through a symbolic link stays in the container",
      SPEC,
      "cat /etc-link/../m/x 2>/dev/null; grep -c ' /target ' /proc/self/mountinfo",
      "1",
      {
        links: { "rootfs/link": "../../../../target" },
        directories: ["rootfs/target"],
        ...mounts(tmpfs([], "/link")),
      },
    ),
    prints("a directory of the host", SPEC, "cat /m/file", "outer", { ...NESTED, ...mounts(bind(["bind"])) }),
    prints("a file of the host", SPEC, "cat /etc/one", "outer", {
      ...NESTED,
      ...mounts(bind(["bind"], "$DIR/src/file", "/etc/one")),
    }),
    prints("a file over an existing file", SPEC, "cat /etc/passwd", "outer", {
      ...NESTED,
      ...mounts(bind(["bind", "ro"], "$DIR/src/file", "/etc/passwd")),
    }),
    prints("a source relative to the bundle", SPEC, "cat /m/file", "outer", {
      ...NESTED,
      ...mounts(bind(["bind"], "src", "/m")),
    }),
    prints("bind without the type", SPEC, "cat /m/file", "outer", {
      ...NESTED,
      ...mounts({ destination: "/m", source: "$DIR/src", options: ["rbind"] }),
    }),
    prints("the type bind without the option", SPEC, "cat /m/file", "outer", {
      ...NESTED,
      ...mounts({ destination: "/m", type: "bind", source: "$DIR/src", options: ["rbind"] }),
    }),
    {
      name: "what the container writes into a bind mount is on the host",
      spec: SPEC,
      args: ["/bin/sh", "-c", "echo written >/m/new"],
      directories: ["src"],
      ...mounts(bind(["rbind", "rw"])),
      steps: [{ run: ["run", "--bundle", "$BUNDLE", "$ID"] }, { file: "$DIR/src/new", holds: "written" }],
    },
    {
      name: "what the host writes is in the container",
      spec: SPEC,
      directories: ["src"],
      ...mounts(bind(["rbind"])),
      steps: [
        { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] },
        { write: "$DIR/src/late", text: "late\n" },
        { run: ["exec", "$ID", "/bin/cat", "/m/late"], stdout: "late" },
      ],
    },
    prints("a read-only bind mount", SPEC, "touch /m/x 2>/dev/null || echo read-only", "read-only", {
      ...NESTED,
      ...mounts(bind(["rbind", "ro"])),
    }),
    prints("bind leaves out what is mounted below, rbind does not", SPEC, "ls /m; echo; ls /n", "inner\n\ninner", {
      ...NESTED,
      files: {},
      ...mounts(bind(["bind"]), bind(["rbind"], "$DIR/src", "/n")),
    }),
    prints("several options at once", SPEC, OPTIONS, /^ro,nosuid,nodev,noexec/, {
      directories: ["src"],
      ...mounts(bind(["rbind", "ro", "nosuid", "nodev", "noexec"])),
    }),
    flag("ro", /^ro\b/),
    flag("rw", /^rw\b/),
    flag("nosuid", /\bnosuid\b/),
    flag("suid", /^rw,relatime$/),
    flag("nodev", /\bnodev\b/),
    flag("dev", /^rw,relatime$/),
    flag("noexec", /\bnoexec\b/),
    flag("exec", /^rw,relatime$/),
    flag("noatime", /\bnoatime\b/),
    flag("atime", /\brelatime\b/),
    flag("nodiratime", /\bnodiratime\b/),
    flag("diratime", /^rw,relatime$/),
    flag("relatime", /\brelatime\b/),
    flag("norelatime", /^rw/),
    flag("strictatime", /^rw$/),
    flag("nostrictatime", /\brelatime\b/),
    prints("sync of a file system", SPEC, SUPER_OPTIONS, /\bsync\b/, mounts(tmpfs(["sync"]))),
    prints("dirsync of a file system", SPEC, SUPER_OPTIONS, /\bdirsync\b/, mounts(tmpfs(["dirsync"]))),
    ...["async", "lazytime", "nolazytime", "iversion", "noiversion", "silent", "loud"].map(taken),
    { ...taken("defaults"), runcFails: "runc 1.1.5 gives it to the file system" },
    bindFlag("ro", /^ro\b/),
    bindFlag("nosuid", /\bnosuid\b/),
    bindFlag("nodev", /\bnodev\b/),
    bindFlag("noexec", /\bnoexec\b/),
    bindFlag("noatime", /\bnoatime\b/),
    prints("an executable on a noexec mount", SPEC, "/m/run 2>/dev/null || echo refused", "refused", {
      files: { "src/run": "#!/bin/sh\necho ran\n" },
      ...mounts(bind(["rbind", "noexec"])),
    }),
    propagation("private", ""),
    propagation("rprivate", ""),
    propagation("shared", "shared:"),
    propagation("rshared", "shared:"),
    propagation("slave", ""),
    propagation("rslave", ""),
    propagation("unbindable", "unbindable"),
    propagation("runbindable", "unbindable"),
    bindFlag("rnoatime", /^rw,noatime$/),
    bindFlag("rrelatime", /^rw,relatime$/),
    bindFlag("rnosuid", /\bnosuid\b/),
    bindFlag("rnodev", /\bnodev\b/),
    bindFlag("rnoexec", /\bnoexec\b/),
    bindFlag("rrw", /^rw,relatime$/),
    bindFlag("rsuid", /^rw,relatime$/),
    bindFlag("rdev", /^rw,relatime$/),
    bindFlag("rexec", /^rw,relatime$/),
    { ...bindFlag("ratime", /^rw,relatime$/), runcFails: TWO_TIMES },
    bindFlag("rnorelatime", /^rw/),
    bindFlag("rstrictatime", /^rw$/),
    { ...bindFlag("rnostrictatime", /^rw,relatime$/), runcFails: TWO_TIMES },
    bindFlag("rnodiratime", /\bnodiratime\b/),
    bindFlag("rdiratime", /^rw,relatime$/),
    prints("the last of opposite options of a file system", SPEC, OPTIONS, /^rw,relatime$/, mounts(tmpfs(OPPOSITE))),
    prints("the last of opposite options of a bind mount", SPEC, OPTIONS, /^rw,relatime$/, {
      directories: ["src"],
      ...mounts(bind(["bind", ...OPPOSITE])),
    }),
    fileFlag("rro", /^ro,relatime$/),
    fileFlag("rnosuid", /^rw,nosuid,relatime$/),
    fileFlag("rnodev", /^rw,nodev,relatime$/),
    fileFlag("rnoexec", /^rw,noexec,relatime$/),
    prints("../.. is no way out of the root", SPEC, "cat /up/file", "outer", {
      ...NESTED,
      ...mounts(bind(["bind"], "$DIR/src", "../../up")),
    }),
    prints(
      "nothing is made of a name that .. takes back",
      SPEC,
      "cat /b/file; ls -d /a 2>/dev/null || echo none",
      "outer\nnone",
      {
        ...NESTED,
        ...mounts(bind(["bind"], "$DIR/src", "/a/../b")),
      },
    ),
    prints("a mount point through a link that leads nowhere is made", SPEC, "cat /nowhere/deep/file", "outer", {
      ...NESTED,
      links: { "rootfs/link": "/nowhere" },
      ...mounts(bind(["bind"], "$DIR/src", "/link/deep")),
    }),
    refuses("a mount point through a link to itself", SPEC, undefined, {
      ...NESTED,
      links: { "rootfs/link": "/link" },
      ...mounts(bind(["bind"], "$DIR/src", "/link")),
    }),
    prints(
      "the mode of directories that are made",
      SPEC,
      "stat -c %a /new /new/deep",
      "755\n755",
      mounts(tmpfs([], "/new/deep/er")),
    ),
    prints(
      "another proc, and another sysfs, where there was no directory",
      SPEC,
      "ls -d /a/proc/self/status /a/b/sys/kernel",
      "/a/b/sys/kernel\n/a/proc/self/status",
      mounts(
        { destination: "/a/proc", type: "proc", source: "proc" },
        { destination: "/a/b/sys", type: "sysfs", source: "sysfs" },
      ),
    ),
    prints("a file of /proc that may be replaced", SPEC, "cat /proc/uptime", "outer", {
      ...NESTED,
      ...mounts(bind(["bind"], "$DIR/src/file", "/proc/uptime")),
    }),
    ...["/proc", "/proc/self", "/proc/version"].map((destination) =>
      refuses(`a bind mount at ${destination}`, SPEC, /cannot be mounted because it is/, {
        ...NESTED,
        ...mounts(bind(["bind"], "$DIR/src", destination)),
      }),
    ),
    refuses("a bind mount in /proc by a link", SPEC, /cannot be mounted because it is inside \/proc/, {
      ...NESTED,
      links: { "rootfs/link": "/proc" },
      ...mounts(bind(["bind"], "$DIR/src", "/link/sys")),
    }),
    refuses("a file system at the root", SPEC, undefined, mounts(tmpfs([], "/"))),
    prints("a directory in the root's place", SPEC, "ls /; cat /proc/1/comm", ROOT, {
      directories: ["root/proc", "root/dev"],
      files: { "root/bin/busybox": BUSYBOX, "root/file": "" },
      links: {
        "root/bin/sh": "busybox",
        "root/bin/ls": "busybox",
        "root/bin/cat": "busybox",
      },
      config: {
        mounts: [
          tmpfs([], "/hidden"),
          bind(["bind"], "$DIR/root", "/."),
          { destination: "/proc", type: "proc", source: "proc" },
        ],
        linux: { maskedPaths: [], readonlyPaths: [] },
      },
    }),
    prints(
      "the root in its own place",
      SPEC,
      "cat /proc/1/comm; ls /m",
      "sh\nsecond",
      mounts(...[tmpfs([]), tmpfs([], "/m/second"), bind(["rbind"], "$DIR/rootfs", "/")]),
    ),
    prints(
      "a bind mount keeps the flags of what it is of",
      SPEC,
      `${OPTIONS}; ${OPTIONS.replace('"/m"', '"/n"')}`,
      KEPT,
      {
        ...mounts(tmpfs(["noexec", "nosuid"]), bind(["rbind"], "$DIR/rootfs/m", "/n")),
      },
    ),
    flag("nosymfollow", /\bnosymfollow\b/),
    flag("symfollow", /^rw,relatime$/),
    bindFlag("nosymfollow", /\bnosymfollow\b/),
    bindFlag("symfollow", /^rw,relatime$/),
    bindFlag("rnosymfollow", /\bnosymfollow\b/),
    bindFlag("rsymfollow", /^rw,relatime$/),
    fileFlag("nosymfollow", /^rw,relatime,nosymfollow$/),
    prints("a symbolic link on a nosymfollow mount", SPEC, "cat /m/link 2>/dev/null || echo refused", "refused", {
      files: { "src/file": "outer\n" },
      links: { "src/link": "file" },
      ...mounts(bind(["rbind", "ro", "nosymfollow"])),
    }),
    prints(
      "flags of a read-only file system beside nosymfollow",
      SPEC,
      OPTIONS,
      /^ro,nosuid,noexec,relatime,nosymfollow$/,
      mounts(tmpfs(["ro", "nosuid", "noexec", "nosymfollow"])),
    ),
    prints("owners of a mount with mappings", SPEC, "stat -c '%u %g' /m/file", "1000 2000", {
      files: { "src/file": "" },
      ...mounts({ ...bind(["rbind"]), uidMappings: ids(1000), gidMappings: ids(2000) }),
      runcFails: OLD_IDMAP,
    }),
    prints("a new file on a mount with mappings", SPEC, "touch /m/new && stat -c '%u %g' /m/new", "1000 2000", {
      directories: ["src"],
      config: {
        ...mounts({ ...bind(["rbind", "idmap"]), ...MAPPED }).config,
        process: { user: { uid: 1000, gid: 2000 } },
      },
      runcFails: OLD_IDMAP,
    }),
    prints("a new file of a user that the mappings do not have", SPEC, "touch /m/new 2>&1 | sed 's/.*: //'", OVERFLOW, {
      directories: ["src"],
      config: {
        ...mounts({ ...bind(["rbind", "ridmap"]), ...MAPPED }).config,
        process: { capabilities: { bounding: OVERRIDE, effective: OVERRIDE, permitted: OVERRIDE } },
      },
      runcFails: OLD_IDMAP,
    }),
    refuses("idmap without mappings or a user namespace", SPEC, /id-mapped mounts must have both/, {
      directories: ["src"],
      ...mounts(bind(["rbind", "idmap"])),
      runcFails: OLD_IDMAP,
    }),
    refuses("mappings of what is no bind mount", SPEC, /id-mapped mounts are only supported for bind/, {
      ...mounts({ destination: "/m", type: "tmpfs", source: "tmpfs", ...MAPPED }),
      runcFails: OLD_IDMAP,
    }),
    refuses("mappings of a file system that knows of none", SPEC, /invalid argument|EINVAL/i, {
      ...mounts({ ...bind(["rbind"], "/proc/fs"), ...MAPPED }),
      runcFails: OLD_IDMAP,
    }),
    prints("a recursive read-only mount", SPEC, "touch /m/inner/x 2>/dev/null || echo read-only", "read-only", {
      ...NESTED,
      ...mounts(bind(["rbind", "rro"])),
    }),
    prints(
      "size and mode of a tmpfs",
      SPEC,
      "df -k /m | tail -1 | awk '{print $2}'; stat -c %a /m",
      "2048\n1777",
      mounts(tmpfs(["size=2048k", "mode=1777"])),
    ),
    prints(
      "a full tmpfs is full",
      SPEC,
      "dd if=/dev/zero of=/m/x bs=1k count=200 2>/dev/null || echo full",
      "full",
      mounts(tmpfs(["size=64k"])),
    ),
    prints("a tmpfs has the mode of the directory that it covers", SPEC, "stat -c %a /m /new", "755\n1777", {
      directories: ["rootfs/m"],
      ...mounts(tmpfs(["size=64k"]), tmpfs(["size=64k"], "/new")),
    }),
    prints("a tmpfs in a volume has the mode of the directory there", SPEC, "stat -c %a /m/inner", "755", {
      ...NESTED,
      ...mounts(bind(["rbind"]), tmpfs(["size=64k"], "/m/inner")),
    }),
    prints("a tmpfs over another has the mode of that", SPEC, "stat -c %a /m", "710", {
      ...mounts(tmpfs(["mode=710"]), tmpfs(["size=64k"])),
    }),
    prints("the last of several propagations", SPEC, PROPAGATION, "", mounts(tmpfs(["rshared", "rprivate"]))),
    prints("a bind mount of what an earlier mount has put into the container", SPEC, "cat /n/file", "inner", {
      ...NESTED,
      ...mounts(bind(["rbind"]), bind(["rbind"], "$DIR/rootfs/m/inner", "/n")),
    }),
    prints("uid and gid of a tmpfs", SPEC, "stat -c '%u %g' /m", "1000 50", mounts(tmpfs(["uid=1000", "gid=50"]))),
    prints("tmpcopyup", SPEC, "cat /m/kept; touch /m/x; ls /m | tr '\\n' ' '", "kept\nkept x", {
      files: { "rootfs/m/kept": "kept\n" },
      ...mounts(tmpfs(["tmpcopyup"])),
    }),
    prints("/proc is the container's", SPEC, "echo $(ls -d /proc/[0-9]* | wc -l) $(cat /proc/1/comm)", /^[2-5] sh$/),
    prints("/dev/shm is of its size", SPEC, "df -k /dev/shm | tail -1 | awk '{print $2}'", "65536"),
    prints(
      "/dev/pts is an instance of its own",
      SPEC,
      "ls /dev/pts; test -L /dev/ptmx && readlink /dev/ptmx",
      "ptmx\npts/ptmx",
    ),
    prints("mqueue", SPEC, "grep -c ' /dev/mqueue .* - mqueue ' /proc/self/mountinfo", "1"),
    prints("sysfs is read-only", SPEC, "grep -o ' /sys ro' /proc/self/mountinfo | head -1", " /sys ro"),
    prints(
      "the cgroup file system",
      "config-linux.md#control-groups",
      "test -d /sys/fs/cgroup && grep -c ' - cgroup' /proc/self/mountinfo | sed 's/[1-9][0-9]*/some/'",
      "some",
      mounts({
        destination: "/sys/fs/cgroup",
        type: "cgroup",
        source: "cgroup",
        options: ["nosuid", "noexec", "nodev", "ro"],
      }),
    ),
    {
      name: "an overlay of the host's directories: what is written is in its upper one",
      spec: SPEC,
      args: ["/bin/sh", "-c", "cat /m/low /m/up && echo changed >/m/low"],
      directories: ["work"],
      files: { "lower/low": "low\n", "upper/up": "up\n" },
      ...mounts(overlay(["lowerdir=$DIR/lower", "upperdir=$DIR/upper", "workdir=$DIR/work"])),
      steps: [
        { run: ["run", "--bundle", "$BUNDLE", "$ID"], stdout: "low\nup" },
        { file: "$DIR/upper/low", holds: "changed" },
        { file: "$DIR/lower/low", holds: "low" },
      ],
    },
    prints(
      "a read-only overlay",
      SPEC,
      `cat /m/a /m/b; ${OPTIONS} | cut -c1-9; touch /m/x 2>/dev/null || echo no`,
      "a\nb\nro,nosuid\nno",
      {
        files: { "one/a": "a\n", "two/b": "b\n" },
        ...mounts(overlay(["lowerdir=$DIR/one:$DIR/two", "ro", "nosuid"])),
      },
    ),
    refuses(
      "an overlay of a directory that is missing",
      SPEC,
      /no such file|ENOENT/i,
      mounts(overlay(["lowerdir=$DIR/nothing:$DIR/neither"])),
    ),
    refuses(
      "a source that is missing",
      SPEC,
      /no such file|does not exist|nothing/i,
      mounts(bind(["rbind"], "$DIR/nothing")),
    ),
    refuses(
      "a file system that no kernel has",
      SPEC,
      /nofs|no such device/,
      mounts({ destination: "/m", type: "nofs", source: "x" }),
    ),
    refuses("a mount without a destination", SPEC, undefined, mounts({ type: "tmpfs", source: "tmpfs" })),
    refuses(
      "options that are no list",
      SPEC,
      undefined,
      mounts({ destination: "/m", type: "tmpfs", source: "tmpfs", options: "ro" }),
    ),
    refuses("an option that the file system does not know", SPEC, undefined, mounts(tmpfs(["bogus=1"]))),
    ...["/proc", "/sys"].map((path) =>
      refuses(`${path} over a symbolic link`, SPEC, /ordinary directory/, {
        removed: [`rootfs${path}`],
        links: { [`rootfs${path}`]: "etc" },
      }),
    ),
    refuses("a directory over a file", SPEC, undefined, {
      ...NESTED,
      ...mounts(bind(["bind"], "$DIR/src", "/etc/passwd")),
    }),
  ],
};
