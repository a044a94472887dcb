/** config-linux.md: masked and read-only paths, kernel parameters, propagation of the root, personality. */
import { prints, refuses, type Topic } from "../case.ts";

const linux = (members: Record<string, unknown>): { config: Record<string, unknown> } => ({
  config: { linux: members },
});
const PROC = { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "nodev", "noexec"] };
/** Who maps root of a user namespace must have it. Source: user_namespaces(7). */
const SETFCAP = ["CAP_SETFCAP"];
const SYSCTL = "config-linux.md#sysctl";
const MASKED = "config-linux.md#masked-paths";
const READONLY = "config-linux.md#readonly-paths";
const ROOT = "config-linux.md#rootfs-mount-propagation";
const ROOT_PROPAGATION = "awk '$5 == \"/\"' /proc/self/mountinfo | sed 's/ - .*//' | cut -d' ' -f7- | tr -d '0-9'";

/** Nodes that are there before paths are masked. */
const NODES = [
  { path: "/dev/pipe", type: "p", fileMode: 0o666, uid: 0, gid: 0 },
  { path: "/dev/endless", type: "c", major: 1, minor: 5, fileMode: 0o666, uid: 0, gid: 0 },
];

export const PATHS: Topic = {
  topic: "paths",
  cases: [
    prints("a masked file is empty", MASKED, "cat /secret | wc -c", "0", {
      files: { "rootfs/secret": "secret\n" },
      ...linux({ maskedPaths: ["/secret"] }),
    }),
    prints(
      "a masked directory is empty",
      MASKED,
      "ls /hidden | wc -l; touch /hidden/x 2>/dev/null || echo read-only",
      "0\nread-only",
      {
        files: { "rootfs/hidden/file": "secret\n" },
        ...linux({ maskedPaths: ["/hidden"] }),
      },
    ),
    prints("a masked path that is missing is none", MASKED, "echo ok", "ok", linux({ maskedPaths: ["/nowhere"] })),
    prints("a masked path through a symbolic link masks what it leads to", MASKED, "cat /real /link | wc -c", "0", {
      files: { "rootfs/real": "secret\n" },
      links: { "rootfs/link": "real" },
      ...linux({ maskedPaths: ["/link"] }),
    }),
    prints("a masked path through a symbolic link that leads nowhere is none", MASKED, "echo ok", "ok", {
      links: { "rootfs/link": "../nowhere" },
      ...linux({ maskedPaths: ["/link"] }),
    }),
    prints("a masked path without a slash at its begin is below the root", MASKED, "cat /secret | wc -c", "0", {
      files: { "rootfs/secret": "secret\n" },
      ...linux({ maskedPaths: ["secret"] }),
    }),
    prints("a masked path that leads out of the root is none", MASKED, "echo ok", "ok", {
      files: { outside: "outside\n" },
      ...linux({ maskedPaths: ["../outside"] }),
    }),
    prints("masked paths below a masked directory", MASKED, "ls /hidden | wc -l; cat /open/secret | wc -c", "0\n0", {
      files: { "rootfs/hidden/deep/file": "secret\n", "rootfs/open/secret": "secret\n" },
      ...linux({ maskedPaths: ["/hidden", "/hidden/deep", "/hidden/deep/file", "/open/secret", "/open/secret"] }),
    }),
    prints(
      "a masked fifo and a masked device",
      MASKED,
      "test -p /dev/pipe || echo none; head -c 1 /dev/endless | wc -c",
      "none\n0",
      linux({ devices: NODES, maskedPaths: ["/dev/pipe", "/dev/endless"] }),
    ),
    prints("masked paths of /proc", MASKED, "wc -c </proc/version", "0", linux({ maskedPaths: ["/proc/version"] })),
    prints(
      "a user namespace of its own shows a process no more of /proc",
      MASKED,
      "unshare -mrpf mount -t proc proc /proc 2>/dev/null && head -c 1 /proc/version || echo refused",
      "refused",
      {
        config: {
          linux: { maskedPaths: ["/proc/version"], readonlyPaths: ["/proc/sys"] },
          process: { capabilities: { bounding: SETFCAP, effective: SETFCAP, permitted: SETFCAP } },
        },
      },
    ),
    prints("a read-only file", READONLY, "echo x 2>/dev/null >/fixed || cat /fixed", "fixed", {
      files: { "rootfs/fixed": "fixed\n" },
      ...linux({ readonlyPaths: ["/fixed"] }),
    }),
    prints(
      "a read-only directory, with all below",
      READONLY,
      "touch /fixed/deep/x 2>/dev/null || echo read-only",
      "read-only",
      {
        files: { "rootfs/fixed/deep/file": "" },
        ...linux({ readonlyPaths: ["/fixed"] }),
      },
    ),
    prints(
      "a read-only path that is missing is none",
      READONLY,
      "echo ok",
      "ok",
      linux({ readonlyPaths: ["/nowhere"] }),
    ),
    prints(
      "a read-only path through a symbolic link",
      READONLY,
      "echo x 2>/dev/null >/real/file || cat /real/file",
      "fixed",
      {
        files: { "rootfs/real/file": "fixed\n" },
        links: { "rootfs/link": "real" },
        ...linux({ readonlyPaths: ["/link"] }),
      },
    ),
    prints(
      "a read-only path without a slash at its begin is below the root",
      READONLY,
      "echo x 2>/dev/null >/fixed || cat /fixed",
      "fixed",
      {
        files: { "rootfs/fixed": "fixed\n" },
        ...linux({ readonlyPaths: ["fixed"] }),
      },
    ),
    prints(
      "a read-only fifo and a read-only device can be used, but not changed",
      READONLY,
      "test -p /dev/pipe && chmod 600 /dev/pipe 2>/dev/null || echo fixed; head -c 1 /dev/endless | wc -c; echo x >/dev/endless && echo written",
      "fixed\n1\nwritten",
      linux({ devices: NODES, readonlyPaths: ["/dev/pipe", "/dev/endless"] }),
    ),
    prints("a path that is masked and read-only", MASKED, "cat /secret | wc -c", "0", {
      files: { "rootfs/secret": "secret\n" },
      ...linux({ maskedPaths: ["/secret"], readonlyPaths: ["/secret"] }),
    }),
    prints(
      "read-only paths of /proc",
      READONLY,
      "echo x 2>/dev/null >/proc/sys/kernel/panic || echo read-only",
      "read-only",
      linux({ readonlyPaths: ["/proc/sys"] }),
    ),
    prints(
      "a read-only path has the flags of the mount that it is in",
      READONLY,
      "awk '$5 == \"/proc/sys\" {print $6}' /proc/self/mountinfo",
      /^ro,nosuid,nodev,noexec,relatime$/,
      {
        config: {
          mounts: [PROC],
          linux: { maskedPaths: [], readonlyPaths: ["/proc/sys"] },
        },
      },
    ),
    prints(
      "a kernel parameter of the IPC namespace",
      SYSCTL,
      "cat /proc/sys/kernel/msgmax",
      "9000",
      linux({ sysctl: { "kernel.msgmax": "9000" } }),
    ),
    prints(
      "a kernel parameter of the network namespace",
      SYSCTL,
      "cat /proc/sys/net/ipv4/ip_forward",
      "1",
      linux({ sysctl: { "net.ipv4.ip_forward": "1" } }),
    ),
    prints(
      "several kernel parameters",
      SYSCTL,
      "cat /proc/sys/kernel/shmmni /proc/sys/kernel/msgmnb",
      "1000\n17000",
      linux({ sysctl: { "kernel.shmmni": "1000", "kernel.msgmnb": "17000" } }),
    ),
    refuses(
      "a kernel parameter that is in no namespace",
      SYSCTL,
      /kernel\.panic|not in a separate|sysctl/,
      linux({ sysctl: { "kernel.panic": "5" } }),
    ),
    refuses("a kernel parameter that does not exist", SYSCTL, undefined, linux({ sysctl: { "net.ipv4.bogus": "1" } })),
    refuses(
      "a value that the parameter does not take",
      SYSCTL,
      undefined,
      linux({ sysctl: { "kernel.msgmax": "many" } }),
    ),
    refuses("a kernel parameter of an IPC namespace that is not asked for", SYSCTL, undefined, {
      config: {
        linux: {
          sysctl: { "kernel.msgmax": "9000" },
          namespaces: ["pid", "network", "uts", "mount"].map((type) => ({ type })),
        },
      },
    }),
    prints("the root is private or slave without a word", ROOT, ROOT_PROPAGATION, /^(?:master:)?$/),
    prints("a private root", ROOT, ROOT_PROPAGATION, "", linux({ rootfsPropagation: "private" })),
    prints("a shared root", ROOT, ROOT_PROPAGATION, /^shared:/, {
      ...linux({ rootfsPropagation: "shared" }),
      runcFails: "runc 1.1.5 leaves the root private",
    }),
    prints("a slave root", ROOT, ROOT_PROPAGATION, /^(?:master:)?$/, linux({ rootfsPropagation: "slave" })),
    prints("an unbindable root", ROOT, ROOT_PROPAGATION, /unbindable/, {
      ...linux({ rootfsPropagation: "unbindable" }),
      runcFails: "runc 1.1.5 binds the root after it made it unbindable",
    }),
    refuses("a propagation that nobody knows", ROOT, /rootfsPropagation|propagation/, {
      ...linux({ rootfsPropagation: "bogus" }),
    }),
    prints("the personality of 32 bits", "config-linux.md#personality", "uname -m", "i686", {
      ...linux({ personality: { domain: "LINUX32" } }),
      runcFails: "personality came with runc 1.2",
    }),
    prints(
      "the personality of Linux",
      "config-linux.md#personality",
      "uname -m",
      "x86_64",
      linux({ personality: { domain: "LINUX", flags: [] } }),
    ),
    refuses("a personality that nobody knows", "config-linux.md#personality", /persona/, {
      ...linux({ personality: { domain: "BOGUS" } }),
      runcFails: "personality came with runc 1.2",
    }),
    prints(
      "address randomisation is as the kernel has it",
      "config-linux.md#personality",
      "cat /proc/self/personality 2>/dev/null || echo 00000000",
      "00000000",
    ),
  ],
};
