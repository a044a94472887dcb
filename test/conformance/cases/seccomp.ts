/** config-linux.md: seccomp. */
import { systemCallProgram } from "../../harness/system-call-program.ts";
import { prints, refuses, type Topic } from "../case.ts";

const SPEC = "config-linux.md#seccomp";
const X86_64 = ["SCMP_ARCH_X86_64"];
const seccomp = (members: object): { config: Record<string, unknown> } => ({
  config: { linux: { seccomp: { architectures: X86_64, ...members } }, process: { noNewPrivileges: false } },
});
const one = (rule: object): { config: Record<string, unknown> } =>
  seccomp({ defaultAction: "SCMP_ACT_ALLOW", syscalls: [rule] });
/** What a runtime, a shell and busybox need to come as far as `mkdir`. */
const EVERY_CALL_BUT_MKDIR = (
  "access arch_prctl brk capget capset chdir clone clone3 close close_range connect dup dup2 dup3 epoll_create1 epoll_ctl " +
  "epoll_pwait epoll_wait eventfd2 execve execveat exit exit_group faccessat faccessat2 fchdir fchmod fchown fcntl fstat " +
  "fstatfs fsync futex getcwd getdents getdents64 getegid geteuid getgid getgroups getpgrp getpid getppid getrandom " +
  "getrlimit gettid gettimeofday getuid ioctl kill lseek lstat madvise mmap mprotect mremap munmap nanosleep newfstatat open " +
  "openat openat2 pipe pipe2 poll ppoll prctl pread64 prlimit64 pselect6 pwrite64 read readlink readlinkat recvfrom recvmsg rseq " +
  "rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity sched_yield seccomp select sendmsg sendto set_robust_list " +
  "set_tid_address setgid setgroups setpgid setresgid setresuid setsid setuid sigaltstack socket stat statfs statx tgkill " +
  "time umask uname unlink vfork wait4 waitid write writev"
).split(" ");
const MKDIR = ["mkdir", "mkdirat"];

export const SECCOMP: Topic = {
  topic: "seccomp",
  cases: [
    prints(
      "a filter is on",
      SPEC,
      "grep '^Seccomp:' /proc/self/status | tr -d '\\t'",
      "Seccomp:2",
      one({ names: MKDIR, action: "SCMP_ACT_ERRNO" }),
    ),
    prints(
      "a listener that no action has a use for is ignored",
      SPEC,
      "mkdir /x 2>&1 || true",
      /Operation not permitted/,
      {
        config: {
          linux: {
            seccomp: {
              defaultAction: "SCMP_ACT_ALLOW",
              listenerPath: "/nowhere.sock",
              syscalls: [{ names: MKDIR, action: "SCMP_ACT_ERRNO" }],
            },
          },
        },
      },
    ),
    prints("no filter", SPEC, "grep '^Seccomp:' /proc/self/status | tr -d '\\t'", "Seccomp:0"),
    prints(
      "ERRNO is EPERM",
      SPEC,
      "mkdir /x 2>&1 || true",
      /Operation not permitted/,
      one({ names: MKDIR, action: "SCMP_ACT_ERRNO" }),
    ),
    prints(
      "ERRNO with a number of its own",
      SPEC,
      "mkdir /x 2>&1 || true",
      /No such device or address/,
      one({ names: MKDIR, action: "SCMP_ACT_ERRNO", errnoRet: 6 }),
    ),
    prints(
      "KILL ends the process",
      SPEC,
      "mkdir /x 2>/dev/null; echo $?",
      "159",
      one({ names: MKDIR, action: "SCMP_ACT_KILL" }),
    ),
    prints(
      "KILL_PROCESS ends the process",
      SPEC,
      "mkdir /x 2>/dev/null; echo $?",
      "159",
      one({ names: MKDIR, action: "SCMP_ACT_KILL_PROCESS" }),
    ),
    prints(
      "KILL_THREAD ends the thread",
      SPEC,
      "mkdir /x 2>/dev/null; echo $?",
      "159",
      one({ names: MKDIR, action: "SCMP_ACT_KILL_THREAD" }),
    ),
    prints(
      "TRAP sends SIGSYS",
      SPEC,
      "mkdir /x 2>/dev/null; echo $?",
      "159",
      one({ names: MKDIR, action: "SCMP_ACT_TRAP" }),
    ),
    prints(
      "TRACE without a tracer is ENOSYS",
      SPEC,
      "mkdir /x 2>&1 || true",
      /Function not implemented/,
      one({ names: MKDIR, action: "SCMP_ACT_TRACE" }),
    ),
    prints("LOG lets it be", SPEC, "mkdir /x && echo made", "made", one({ names: MKDIR, action: "SCMP_ACT_LOG" })),
    prints(
      "ALLOW among others",
      SPEC,
      "mkdir /x && echo made",
      "made",
      seccomp({
        defaultAction: "SCMP_ACT_LOG",
        syscalls: [{ names: MKDIR, action: "SCMP_ACT_ALLOW" }],
      }),
    ),
    prints(
      "an argument that is equal",
      SPEC,
      "chmod 700 /x 2>/dev/null || echo refused; chmod 755 /x && echo done",
      "refused\ndone",
      {
        files: { "rootfs/x": "" },
        ...one({ names: ["chmod"], action: "SCMP_ACT_ERRNO", args: [{ index: 1, value: 0o700, op: "SCMP_CMP_EQ" }] }),
      },
    ),
    prints(
      "an argument by a mask",
      SPEC,
      "chmod 4755 /x 2>/dev/null || echo refused; chmod 755 /x && echo done",
      "refused\ndone",
      {
        files: { "rootfs/x": "" },
        ...one({
          names: ["chmod"],
          action: "SCMP_ACT_ERRNO",
          args: [{ index: 1, value: 0o4000, valueTwo: 0o4000, op: "SCMP_CMP_MASKED_EQ" }],
        }),
      },
    ),
    prints(
      "several rules",
      SPEC,
      "mkdir /x 2>/dev/null || echo one; ln -s a /y 2>/dev/null || echo two",
      "one\ntwo",
      seccomp({
        defaultAction: "SCMP_ACT_ALLOW",
        syscalls: [
          { names: MKDIR, action: "SCMP_ACT_ERRNO" },
          { names: ["symlink", "symlinkat"], action: "SCMP_ACT_ERRNO" },
        ],
      }),
    ),
    prints(
      "a call that no kernel has is ignored",
      SPEC,
      "echo ok",
      "ok",
      one({ names: ["no_such_call"], action: "SCMP_ACT_ERRNO" }),
    ),
    prints("several architectures", SPEC, "mkdir /x 2>/dev/null || echo refused", "refused", {
      config: {
        linux: {
          seccomp: {
            defaultAction: "SCMP_ACT_ALLOW",
            architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            syscalls: [{ names: MKDIR, action: "SCMP_ACT_ERRNO" }],
          },
        },
      },
    }),
    prints(
      "with the default of engines, most refused",
      SPEC,
      "unshare -m true 2>/dev/null || echo refused; mkdir /x && echo made",
      "refused\nmade",
      one({ names: ["unshare"], action: "SCMP_ACT_ERRNO" }),
    ),
    prints(
      "the default action with a number of its own",
      SPEC,
      "exec 2>&1; /bin/busybox mkdir /x || true",
      /No such device or address/,
      seccomp({
        defaultAction: "SCMP_ACT_ERRNO",
        defaultErrnoRet: 6,
        syscalls: [{ names: EVERY_CALL_BUT_MKDIR, action: "SCMP_ACT_ALLOW" }],
      }),
    ),
    prints(
      "a call newer than the profile is not implemented, an older one is refused",
      SPEC,
      "/newer; echo $?; /older; echo $?",
      "38\n1",
      {
        // The newest that the profile names is faccessat2, 439; these are process_madvise and io_uring_setup.
        files: { "rootfs/newer": systemCallProgram(440), "rootfs/older": systemCallProgram(425) },
        ...seccomp({
          defaultAction: "SCMP_ACT_ERRNO",
          syscalls: [{ names: EVERY_CALL_BUT_MKDIR, action: "SCMP_ACT_ALLOW" }],
        }),
      },
    ),
    prints("flags of the filter", SPEC, "mkdir /x && echo made", "made", {
      ...seccomp({
        defaultAction: "SCMP_ACT_ALLOW",
        flags: ["SECCOMP_FILTER_FLAG_LOG"],
        syscalls: [{ names: ["unshare"], action: "SCMP_ACT_ERRNO" }],
      }),
      runcFails: "runc 1.1.5 takes no flags",
    }),
    {
      name: "the filter holds for exec too",
      spec: SPEC,
      ...one({ names: MKDIR, action: "SCMP_ACT_ERRNO" }),
      steps: [
        { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] },
        { run: ["exec", "$ID", "/bin/sh", "-c", "mkdir /x 2>/dev/null || echo refused"], stdout: "refused" },
      ],
    },
    refuses("an action that nobody knows", SPEC, /BOGUS|action/i, one({ names: MKDIR, action: "SCMP_ACT_BOGUS" })),
    refuses(
      "an architecture that nobody knows",
      SPEC,
      /BOGUS|arch/i,
      seccomp({ defaultAction: "SCMP_ACT_ALLOW", architectures: ["SCMP_ARCH_BOGUS"] }),
    ),
    refuses(
      "an operator that nobody knows",
      SPEC,
      /BOGUS|op/i,
      one({ names: MKDIR, action: "SCMP_ACT_ERRNO", args: [{ index: 0, value: 1, op: "SCMP_CMP_BOGUS" }] }),
    ),
    refuses("no default action", SPEC, undefined, {
      ...seccomp({ syscalls: [] }),
      runcFails: "runc 1.1.5 allows by default",
    }),
    refuses("a rule without calls", SPEC, undefined, {
      ...one({ names: [], action: "SCMP_ACT_ERRNO" }),
      runcFails: "runc 1.1.5 does not look at it",
    }),
  ],
};
