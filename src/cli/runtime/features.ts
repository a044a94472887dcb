/** `features`: what this runtime supports, as engines read it. Source: OCI runtime spec, features.md. */
import type { HearthConfig } from "../../config/config.ts";
import { COMMIT, GUEST_KERNEL, OCI_VERSION, VERSION } from "../../version.ts";
import { writeOut } from "../output.ts";
import { refusePositionals } from "../usage-error.ts";
import { defineRuntimeCommand } from "./command.ts";

/** Flags and propagations that the guest's crun or agent applies to a mount, and those that have no effect there. Source: runc, `features`. */
const MOUNT_OPTIONS = (
  "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime noexec " +
  "noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime relatime remount " +
  "rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared " +
  "rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable"
).split(" ");

/** Source: linux/capability.h. */
const CAPABILITIES = (
  "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE " +
  "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN " +
  "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE " +
  "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
  .split(" ")
  .map((name) => `CAP_${name}`);

/** SCMP_ACT_NOTIFY is missing on purpose: its listener would be on the host. */
const SECCOMP = {
  enabled: true,
  actions: ["ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "TRACE", "TRAP"].map(
    (action) => `SCMP_ACT_${action}`,
  ),
  operators: ["EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE"].map((operator) => `SCMP_CMP_${operator}`),
  archs: ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32"],
  knownFlags: ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"],
  supportedFlags: ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"],
};

/** QEMU's server of virtio-9p makes files as root and gives them away then, which it could not where root is nobody. */
export function featuresWith(sharedFs: HearthConfig["hypervisor"]["shared_fs"]) {
  const idmap = { enabled: sharedFs === "virtio-fs" };
  return { ...FEATURES, linux: { ...FEATURES.linux, mountExtensions: { idmap } } };
}

const FEATURES = {
  ociVersionMin: "1.0.0",
  ociVersionMax: OCI_VERSION,
  hooks: ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
  mountOptions: MOUNT_OPTIONS,
  linux: {
    // Joining a namespace of the host by path works for the network alone.
    namespaces: ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
    capabilities: CAPABILITIES,
    // Both on the host, for the whole VM; the guest, which limits the container, has v2.
    cgroup: { v1: true, v2: true, systemd: false, systemdUser: false, rdma: false },
    seccomp: SECCOMP,
    apparmor: { enabled: true },
    selinux: { enabled: false },
    intelRdt: { enabled: false },
    netDevices: { enabled: true },
  },
  annotations: {
    "org.hearth.version": VERSION,
    "org.hearth.commit": COMMIT,
    "org.hearth.guest.kernel": GUEST_KERNEL,
    "org.opencontainers.runc.checkpoint.enabled": "false",
  },
  // Which VM a container goes into and how large it is; and what the guest's crun reads.
  potentiallyUnsafeConfigAnnotations: ["io.kubernetes.cri.", "io.kubernetes.cri-o.", "run.oci."],
} as const;

export const command = defineRuntimeCommand({
  flags: {},
  positionals: "",
  async run(context, _flags, positionals) {
    refusePositionals(positionals);
    const { hypervisor } = await context.config();
    await writeOut(`${JSON.stringify(featuresWith(hypervisor.shared_fs), null, 4)}\n`);
  },
});
