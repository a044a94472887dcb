/** exec: no operation of the spec, but every engine's; its process is that of config.md#process. */
import { bundleConfig } from "../../harness/bundle.ts";
import type { Case, CommandStep, Topic } from "../case.ts";

const SPEC = "config.md#process";
const MOUNTS = bundleConfig({ args: [] })["mounts"];
const RUN_DETACHED = { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] } as const;
const sh = (script: string, ...flags: readonly string[]): CommandStep => ({
  run: ["exec", ...flags, "$ID", "/bin/sh", "-c", script],
});
const exec = (name: string, step: CommandStep, extra: Partial<Case> = {}): Case => ({
  name,
  spec: SPEC,
  steps: [RUN_DETACHED, step],
  ...extra,
});
const CAPS = "grep CapEff /proc/self/status | tr -d '\\t' | sed 's/:0*/:/'";

export const EXEC: Topic = {
  topic: "exec",
  cases: [
    exec("output and status", { ...sh("echo out; exit 5"), status: 5, stdout: "out" }),
    exec("standard input", { run: ["exec", "$ID", "/bin/cat"], stdin: "in\n", stdout: "in" }),
    exec(
      "in the namespaces of the container",
      { ...sh("hostname; cat /proc/1/comm"), stdout: "box\nsleep" },
      { config: { hostname: "box" } },
    ),
    exec("a program without a name", {
      run: ["exec", "$ID", ""],
      status: 255,
      stderr: /exec failed: unable to start container process: exec: .*: executable file not found in \$PATH/,
    }),
    exec("a working directory that is not there", {
      ...sh("true", "--cwd", "/nowhere"),
      status: 255,
      stderr:
        /exec failed: unable to start container process: chdir to cwd \(\\?"\/nowhere\\?"\) set in config.json failed: no such file/,
    }),
    exec("--cwd", { ...sh("pwd", "--cwd", "/tmp"), stdout: "/tmp" }),
    exec("--env", { ...sh("echo $A $B", "--env", "A=1", "--env", "B=2"), stdout: "1 2" }),
    exec("--env of what the container has", { ...sh("echo $TERM", "--env", "TERM=dumb"), stdout: "dumb" }),
    exec(
      "masked paths hold for it, once",
      { ...sh("wc -c </proc/version; grep -c ' /proc/version ' /proc/self/mountinfo"), stdout: "0\n1" },
      { config: { linux: { maskedPaths: ["/proc/version"] } } },
    ),
    exec("the environment of the container", { ...sh("echo $TERM"), stdout: "xterm" }),
    exec("--user", { ...sh("echo $(id -u) $(id -g)", "--user", "1000:50"), stdout: "1000 50" }),
    exec(
      "HOME of a user that passwd knows, and of one that it does not",
      { ...sh("echo $HOME", "--user", "5"), stdout: "/five" },
      {
        files: { "rootfs/etc/passwd": "root:x:0:0::/root:/bin/sh\nfive:x:5:5::/five:/bin/sh\n" },
        steps: [
          RUN_DETACHED,
          { ...sh("echo $HOME", "--user", "5"), stdout: "/five" },
          { ...sh("echo $HOME", "--user", "55"), stdout: "/" },
          { ...sh("echo $HOME", "--user", "55", "--env", "HOME=/own"), stdout: "/own" },
        ],
      },
    ),
    exec("--additional-gids", {
      ...sh("id -G", "--user", "1000:50", "--additional-gids", "60", "--additional-gids", "70"),
      stdout: "50 60 70",
    }),
    exec("--cap", { ...sh(CAPS, "--cap", "CAP_SYS_ADMIN"), stdout: "CapEff:20200420" }),
    exec(
      "--no-new-privs",
      { ...sh("grep NoNewPrivs /proc/self/status | tr -d '\\t'", "--no-new-privs"), stdout: "NoNewPrivs:1" },
      { config: { process: { noNewPrivileges: false } } },
    ),
    exec(
      "--process",
      { run: ["exec", "--process", "$DIR/process.json", "$ID"], stdout: "/tmp 7 1" },
      {
        files: {
          "process.json": JSON.stringify({
            args: ["/bin/sh", "-c", "echo $(pwd) $(id -u) $A"],
            cwd: "/tmp",
            user: { uid: 7, gid: 7 },
            env: ["PATH=/bin", "A=1"],
          }),
        },
      },
    ),
    exec(
      "--detach with --pid-file",
      { run: ["exec", "--detach", "--pid-file", "$DIR/pid", "$ID", "/bin/sleep", "100"] },
      {
        steps: [
          RUN_DETACHED,
          { run: ["exec", "--detach", "--pid-file", "$DIR/pid", "$ID", "/bin/sleep", "100"] },
          { file: "$DIR/pid", holds: /^\d+$/ },
        ],
      },
    ),
    exec(
      "the limits of the container hold for it",
      { ...sh("ulimit -H -n"), stdout: "333" },
      {
        config: { process: { rlimits: [{ type: "RLIMIT_NOFILE", soft: 222, hard: 333 }] } },
      },
    ),
    exec("--cgroup", sh("true"), {
      config: {
        mounts: [
          ...(Array.isArray(MOUNTS) ? MOUNTS : []),
          { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["rw"] },
        ],
      },
      steps: [
        RUN_DETACHED,
        sh("mkdir -p /sys/fs/cgroup/below/it"),
        { ...sh("cat /proc/self/cgroup", "--cgroup", "/below/it"), stdout: "0::/below/it" },
        { ...sh("cat /proc/self/cgroup", "--cgroup", "below"), stdout: "0::/below" },
        { ...sh("cat /proc/self/cgroup", "--cgroup", "/"), stdout: "0::/" },
        { ...sh("true", "--cgroup", "/nowhere"), status: 255, stderr: /no such/ },
        { ...sh("true", "--cgroup", "/../other"), status: 255 },
      ],
      runcFails: "cgroup v1 has no cgroup of all controllers on the test machine",
    }),
    exec("--preserve-fds: a pipe and a file", sh("true"), {
      steps: [
        RUN_DETACHED,
        {
          ...sh("cat <&3; echo to the host >&4", "--preserve-fds", "2"),
          redirect: "3< <(echo piped) 4>$DIR/out",
          stdout: "piped",
        },
        { file: "$DIR/out", holds: "to the host" },
      ],
    }),
    exec("--preserve-fds: no others", sh("true"), {
      steps: [
        RUN_DETACHED,
        {
          ...sh("[ -e /proc/$$/fd/3 ] && [ ! -e /proc/$$/fd/4 ]", "--preserve-fds=1"),
          redirect: "3</dev/null 4<$DIR/config.json",
        },
        { ...sh("[ ! -e /proc/$$/fd/3 ]"), redirect: "3<$DIR/config.json" },
      ],
    }),
    exec("--preserve-fds of numbers that are not open", {
      ...sh("true", "--preserve-fds", "60"),
      redirect: "3</dev/null",
      status: 255,
      stderr: /preserve/,
    }),
    exec("--ignore-paused", sh("true"), {
      steps: [
        RUN_DETACHED,
        { run: ["pause", "$ID"] },
        { ...sh("true"), status: 255, stderr: /paused/ },
        { run: ["resume", "$ID"] },
        sh("true", "--ignore-paused"),
      ],
    }),
    exec("a program that is missing", { run: ["exec", "$ID", "/nowhere"], status: 255 }),
    exec("the pid is listed by ps", { run: ["ps", "--format", "json", "$ID"], stdout: /^\[\d+\]$/ }),
    exec("ps for people", sh("until grep -q sleep /proc/1/comm; do sleep 0.05; done"), {
      steps: [
        RUN_DETACHED,
        // Until then it is the runtime's own program.
        sh("until grep -q sleep /proc/1/comm; do sleep 0.05; done"),
        { run: ["ps", "$ID"], stdout: /PID[\s\S]*sleep 1000/ },
      ],
    }),
  ],
};
