/** config.md: process. */
import { type Case, prints, refuses, type Topic } from "../case.ts";

const rlimit = (type: string, soft: number, hard: number): { config: Record<string, unknown> } => ({
  config: { process: { rlimits: [{ type, soft, hard }] } },
});
/** `ulimit` for the soft and the hard limit. */
const limits = (flag: string): string => `echo $(ulimit -S -${flag}) $(ulimit -H -${flag})`;

/** The head of an ELF file for aarch64. Source: elf(5). */
const FOREIGN = new Uint8Array(64);
FOREIGN.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
FOREIGN.set([2, 0, 0xb7, 0], 16);
/** Programs that there are and that the kernel does not execute. */
const REFUSED = {
  "rootfs/garbage": new Uint8Array([1, 2, 3]),
  "rootfs/arm": FOREIGN,
  "rootfs/script": "#!/no/such/interpreter\n",
};
/** More than it takes for one argument. Source: execve(2), MAX_ARG_STRLEN. */
const LONG = "x".repeat(131_073);
const SECRETS = "mkdir -m 700 /closed; for file in /own /closed/x; do cp /bin/busybox $file; chmod 700 $file; done";
const refused = (name: string, args: readonly string[], stderr: RegExp): Case => ({
  name,
  spec: "runtime.md#start",
  args,
  files: REFUSED,
  steps: [{ run: ["run", "--bundle", "$BUNDLE", "$ID"], status: 1, stderr }],
});

export const PROCESS: Topic = {
  topic: "process",
  cases: [
    refuses("no process", "runtime.md#start", /process/, { config: { process: undefined } }),
    refuses("no arguments", "config.md#process", /args/, { config: { process: { args: [] } } }),
    prints("arguments as they are", "config.md#process", 'printf \'%s,\' "$0" "$@"', "a,b c,,$HOME,é,", {
      config: {
        process: { args: ["/bin/sh", "-c", 'printf \'%s,\' "$0" "$@"', "a", "b c", "", "$HOME", "é"] },
      },
    }),
    prints("--preserve-fds: files, read and written", "config.md#process", "cat <&3 >&4", "", {
      files: { in: "from the host\n" },
      steps: [
        { run: ["run", "--preserve-fds", "2", "--bundle", "$BUNDLE", "$ID"], redirect: "3<$DIR/in 4>$DIR/out" },
        { file: "$DIR/out", holds: "from the host" },
      ],
    }),
    prints("a program found along the container's PATH", "config.md#process", "", "found", {
      config: { process: { args: ["hello"], env: ["PATH=/nowhere:/opt"] } },
      files: { "rootfs/opt/hello": "#!/bin/sh\necho found\n" },
    }),
    prints(
      "the environment, and nothing else of the host",
      "config.md#process",
      "env | grep -v ^SHLVL | grep -v ^PWD | grep -v ^HOME | sort",
      "A=1\nB=x=y\nPATH=/bin",
      {
        config: { process: { env: ["PATH=/bin", "B=x=y", "A=1"] } },
      },
    ),
    {
      name: "of variables with one name the last one counts",
      spec: "config.md#process",
      config: { process: { args: ["/bin/env"], env: ["A=1", "PATH=/bin", "A=3"] } },
      steps: [{ run: ["run", "--bundle", "$BUNDLE", "$ID"], stdout: /^(?!(?:.*\n)*A=1)(?:.*\n)*A=3\n/ }],
    },
    refuses("a variable without a value", "config.md#process", /environment|env/, {
      config: { process: { env: ["PATH=/bin", "A"] } },
    }),
    refuses("a variable without a name", "config.md#process", /environment|env/, {
      config: { process: { env: ["PATH=/bin", "=x"] } },
    }),
    refuses("a user that the kernel takes for none", "config.md#user", /2\^31|2147483647/, {
      config: { process: { user: { uid: 4_294_967_295, gid: 0 } } },
    }),
    refuses("a supplementary group that the kernel takes for none", "config.md#user", /2\^31|2147483647|invalid arg/, {
      config: { process: { user: { uid: 0, gid: 0, additionalGids: [4_294_967_295] } } },
    }),
    prints("HOME of the user in the container's passwd", "config.md#process", "echo $HOME", "/root", {
      config: { process: { env: ["PATH=/bin"] } },
    }),
    prints("HOME of a user that the container's passwd does not know", "config.md#process", "echo $HOME", "/", {
      config: { process: { env: ["PATH=/bin"], user: { uid: 12_345, gid: 0 } } },
    }),
    prints("an empty HOME is none", "config.md#process", "echo $HOME", "/root", {
      config: { process: { env: ["PATH=/bin", "HOME=/own", "HOME="] } },
    }),
    prints("of what the environment has twice the last, once", "config.md#process", "env | grep ONE", "ONE=three", {
      config: { process: { env: ["ONE=two", "PATH=/bin", "ONE=", "ONE=three"] } },
    }),
    prints("the working directory", "config.md#process", "pwd", "/tmp", { config: { process: { cwd: "/tmp" } } }),
    prints("a working directory that is missing is made", "config.md#process", "pwd", "/made/deep", {
      config: { process: { cwd: "/made/deep" } },
    }),
    refuses("a relative working directory", "config.md#process", /absolute|Cwd|cwd/, {
      config: { process: { cwd: "tmp" } },
    }),
    refuses("no working directory", "config.md#process", /[Cc]wd/, { config: { process: { cwd: undefined } } }),
    prints("user and group", "config.md#user", "echo $(id -u) $(id -g)", "1000 50", {
      config: { process: { user: { uid: 1000, gid: 50 } } },
    }),
    prints(
      "additional groups given twice",
      "config.md#posix-platform-user",
      "grep Groups /proc/self/status | tr '\\t' ' '",
      /^Groups: 60 70 *$/,
      { config: { process: { user: { uid: 1000, gid: 50, additionalGids: [60, 70, 60] } } } },
    ),
    prints("additional groups", "config.md#user", "id -G", "50 60 70", {
      config: { process: { user: { uid: 1000, gid: 50, additionalGids: [60, 70] } } },
    }),
    prints(
      "no additional groups of the host",
      "config.md#user",
      "grep ^Groups: /proc/self/status | tr -d ' \\t'",
      "Groups:",
      {
        config: { process: { user: { uid: 1000, gid: 50 } } },
      },
    ),
    prints("large ids", "config.md#user", "echo $(id -u) $(id -g)", "2147483646 2147483645", {
      config: { process: { user: { uid: 2147483646, gid: 2147483645 } } },
    }),
    prints("umask", "config.md#user", "umask", "0027", {
      config: { process: { user: { uid: 0, gid: 0, umask: 0o27 } } },
    }),
    prints("the umask is 0022 without one", "config.md#user", "umask", "0022"),
    prints("a username is for another platform", "config.md#user", "id -u", "0", {
      config: { process: { user: { uid: 0, gid: 0, username: "nobody" } } },
    }),
    prints(
      "no_new_privs",
      "config.md#linux-process",
      "grep NoNewPrivs /proc/self/status | tr -d '\\t'",
      "NoNewPrivs:1",
      {
        config: { process: { noNewPrivileges: true } },
      },
    ),
    prints(
      "without no_new_privs",
      "config.md#linux-process",
      "grep NoNewPrivs /proc/self/status | tr -d '\\t'",
      "NoNewPrivs:0",
      {
        config: { process: { noNewPrivileges: false } },
      },
    ),
    prints("oom_score_adj", "config.md#linux-process", "cat /proc/self/oom_score_adj", "77", {
      config: { process: { oomScoreAdj: 77 } },
    }),
    prints("an oom_score_adj of 0", "config.md#linux-process", "cat /proc/self/oom_score_adj", "0", {
      config: { process: { oomScoreAdj: 0 } },
    }),
    prints(
      "the oom_score_adj of the runtime without one",
      "config.md#linux-process",
      "cat /proc/self/oom_score_adj",
      "0",
    ),
    prints("RLIMIT_NOFILE", "config.md#posix-process", limits("n"), "222 333", rlimit("RLIMIT_NOFILE", 222, 333)),
    prints(
      "RLIMIT_NPROC",
      "config.md#posix-process",
      "grep processes /proc/self/limits | awk '{print $3, $4}'",
      "100 200",
      rlimit("RLIMIT_NPROC", 100, 200),
    ),
    prints("RLIMIT_CORE", "config.md#posix-process", limits("c"), "0 0", rlimit("RLIMIT_CORE", 0, 0)),
    prints(
      "RLIMIT_STACK",
      "config.md#posix-process",
      limits("s"),
      "1024 2048",
      rlimit("RLIMIT_STACK", 1 << 20, 2 << 20),
    ),
    prints(
      "RLIMIT_AS",
      "config.md#posix-process",
      limits("v"),
      "1048576 2097152",
      rlimit("RLIMIT_AS", 2 ** 30, 2 ** 31),
    ),
    prints("RLIMIT_FSIZE", "config.md#posix-process", limits("f"), "8 16", rlimit("RLIMIT_FSIZE", 4096, 8192)),
    prints("RLIMIT_CPU", "config.md#posix-process", limits("t"), "50 60", rlimit("RLIMIT_CPU", 50, 60)),
    prints(
      "RLIMIT_DATA",
      "config.md#posix-process",
      limits("d"),
      "1048576 2097152",
      rlimit("RLIMIT_DATA", 2 ** 30, 2 ** 31),
    ),
    prints("RLIMIT_MEMLOCK", "config.md#posix-process", limits("l"), "32 48", rlimit("RLIMIT_MEMLOCK", 32768, 49152)),
    prints("several limits at once", "config.md#posix-process", `${limits("n")}; ${limits("t")}`, "10 20\n30 40", {
      config: {
        process: {
          rlimits: [
            { type: "RLIMIT_NOFILE", soft: 10, hard: 20 },
            { type: "RLIMIT_CPU", soft: 30, hard: 40 },
          ],
        },
      },
    }),
    prints("a limit of infinity", "config.md#posix-process", limits("c"), "7 unlimited", {
      config: { process: { rlimits: [{ type: "RLIMIT_CORE", soft: 7 * 512, hard: "$INFINITY" }] } },
    }),
    refuses(
      "a limit that no kernel has",
      "config.md#posix-process",
      /RLIMIT_BOGUS|rlimit/i,
      rlimit("RLIMIT_BOGUS", 1, 2),
    ),
    refuses("a limit given twice", "config.md#posix-process", /RLIMIT_NOFILE|duplicate/, {
      config: {
        process: {
          rlimits: [
            { type: "RLIMIT_NOFILE", soft: 10, hard: 20 },
            { type: "RLIMIT_NOFILE", soft: 30, hard: 40 },
          ],
        },
      },
      runcFails: "runc 1.1.5 takes the last one",
    }),
    refuses("a soft limit above the hard one", "config.md#posix-process", undefined, rlimit("RLIMIT_NOFILE", 30, 20)),
    refused("a program of no format that the kernel knows", ["/garbage"], /^exec \/garbage: exec format error$/m),
    refused("a program of another machine", ["/arm"], /^exec \/arm: exec format error$/m),
    refused("a script without its interpreter", ["/script"], /^exec \/script: no such file or directory$/m),
    refused("too long an argument", ["/bin/sh", "-c", LONG], /^exec \/bin\/sh: argument list too long$/m),
    {
      ...refused("a program in what is no directory", ["/garbage/x"], /exec: .*: stat \/garbage\/x: not a directory/),
      spec: "runtime.md#errors",
    },
    {
      name: "exec of a program that the kernel does not execute",
      spec: "config.md#process",
      files: REFUSED,
      steps: [
        { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] },
        { run: ["exec", "$ID", "/garbage"], status: 1, stderr: /^exec \/garbage: exec format error$/m },
        { run: ["exec", "$ID", "/script"], status: 1, stderr: /^exec \/script: no such file or directory$/m },
        { run: ["exec", "$ID", "/bin"], status: 255, stderr: /exec: .*\/bin.*: permission denied/ },
        {
          run: ["exec", "$ID", "/nowhere"],
          status: 255,
          stderr: /exec: .*: stat \/nowhere: no such file or directory/,
        },
      ],
    },
    {
      name: "a program that its user may not execute",
      spec: "runtime.md#errors",
      steps: [
        { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] },
        { run: ["exec", "$ID", "/bin/sh", "-c", SECRETS] },
        { run: ["exec", "--user", "1000:1000", "$ID", "/own"], status: 255, stderr: /own.*: permission denied/ },
        {
          run: ["exec", "--user", "1000:1000", "$ID", "/closed/x"],
          status: 255,
          stderr: /closed.x: permission denied/,
        },
        { run: ["exec", "--user", "1000:1000", "$ID", "/bin/true"] },
      ],
    },
    prints("no terminal unless asked for", "config.md#process", "test -t 1 || echo none", "none"),
    prints("consoleSize without a terminal is ignored", "config.md#process", "echo ok", "ok", {
      config: { process: { consoleSize: { height: 10, width: 20 } } },
    }),
    {
      name: "standard input reaches the program",
      spec: "config.md#process",
      args: ["/bin/cat"],
      steps: [{ run: ["run", "--bundle", "$BUNDLE", "$ID"], stdin: "hello\nworld", stdout: "hello\nworld" }],
    },
    {
      name: "standard error is a stream of its own",
      spec: "config.md#process",
      args: ["/bin/sh", "-c", "echo out; echo err >&2"],
      steps: [{ run: ["run", "--bundle", "$BUNDLE", "$ID"], stdout: "out", stderr: /^err$/m }],
    },
    prints(
      "an I/O priority",
      "config.md#linux-process",
      "ionice -p $$ | grep -o 'best-effort.*\\|idle.*'",
      /best-effort.*3|idle/,
      {
        config: { ociVersion: "1.2.0", process: { ioPriority: { class: "IOPRIO_CLASS_BE", priority: 3 } } },
        runcFails: "ioPriority came with runc 1.2",
      },
    ),
    prints("a scheduler", "config.md#linux-process", "cut -d' ' -f19,41 /proc/self/stat", "5 3", {
      config: {
        ociVersion: "1.2.0",
        process: { scheduler: { policy: "SCHED_BATCH", nice: 5, flags: ["SCHED_FLAG_RESET_ON_FORK"] } },
      },
      runcFails: "scheduler came with runc 1.2",
    }),
  ],
};
