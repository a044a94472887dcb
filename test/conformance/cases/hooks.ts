/** config.md: hooks. Programs of the host append to a log in the case's directory. */
import { type Case, refuses, type Topic } from "../case.ts";

const SPEC = "config.md#posix-platform-hooks";
const POINTS = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] as const;
type Point = (typeof POINTS)[number];

const LOG = "$DIR/hooks.log";
const LOGGER = `#!/bin/sh\nread -r state; echo "$1 $2" >>${LOG}\n`;
const hook = (...args: readonly string[]): object => ({ path: "$DIR/logger", args: ["logger", ...args] });
const logging = (hooks: Partial<Record<Point, readonly object[]>>): Pick<Case, "files" | "config"> => ({
  files: { logger: LOGGER, fails: "#!/bin/sh\ncat >/dev/null; echo sorry >&2; exit 3\n" },
  config: { hooks },
});
const EARLY_POSTSTART = "runc 1.1.5 runs poststart hooks in create";
const FAILS = { path: "$DIR/fails" };
/** Finds the container's root by the bundle in its state, and writes into it whose mount namespace it runs in. */
const WRITES_INTO_ROOT = `#!/bin/sh
bundle=$(sed 's/.*"bundle": *"\\([^"]*\\)".*/\\1/')
cd "$bundle"
root=$(tr -d ' \\n' <config.json | sed 's/.*"root":{[^}]*"path":"\\([^"]*\\)".*/\\1/')
test "$(readlink /proc/self/ns/mnt)" = "$(readlink /proc/1/ns/mnt)" && echo runtime >"$root/seen" || echo container >"$root/seen"
`;
const CREATE = { run: ["create", "--bundle", "$BUNDLE", "$ID"] } as const;
const START = { run: ["start", "$ID"] } as const;
const RUN_DETACHED = { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] } as const;
const FORCE = { run: ["delete", "--force", "$ID"] } as const;
const GONE = { run: ["state", "$ID"], status: 1, stderr: /does not exist/ } as const;

const failing = (point: Point): Case => ({
  name: `a failing ${point} hook undoes the create, and poststop runs`,
  spec: SPEC,
  ...logging({ [point]: [FAILS], poststop: [hook("poststop")] }),
  steps: [{ ...CREATE, status: "fails", stderr: /error running .*hook #0/ }, GONE, { file: LOG, holds: /^poststop/ }],
});

export const HOOKS: Topic = {
  topic: "hooks",
  cases: [
    {
      name: "the hooks of the host in their order",
      spec: SPEC,
      ...logging({
        prestart: [hook("prestart")],
        createRuntime: [hook("createRuntime")],
        poststart: [hook("poststart")],
        poststop: [hook("poststop")],
      }),
      steps: [
        CREATE,
        { file: LOG, holds: "prestart \ncreateRuntime" },
        START,
        { file: LOG, holds: "prestart \ncreateRuntime \npoststart" },
        FORCE,
        { file: LOG, holds: "prestart \ncreateRuntime \npoststart \npoststop" },
      ],
      runcFails: EARLY_POSTSTART,
    },
    {
      name: "several hooks of one point in the listed order",
      spec: SPEC,
      ...logging({ createRuntime: [hook("a", "1"), hook("b", "2"), hook("c", "3")] }),
      steps: [CREATE, { file: LOG, holds: "a 1\nb 2\nc 3" }],
    },
    ...(["prestart", "createRuntime", "poststart", "poststop"] as const).map(
      (point): Case => ({
        name: `the state on standard input of a ${point} hook`,
        spec: "config.md#posix-platform-hooks",
        files: { saver: "#!/bin/sh\ncat >$DIR/state\n" },
        config: { hooks: { [point]: [{ path: "$DIR/saver" }] }, annotations: { "com.example.a": "b" } },
        steps: [
          RUN_DETACHED,
          FORCE,
          {
            file: "$DIR/state",
            holds: new RegExp(
              `"ociVersion":"1\\..*"id":"case-\\d+","status":"${{ prestart: "creat(?:ing|ed)", createRuntime: "creat(?:ing|ed)", poststart: "running", poststop: "stopped" }[point]}".*"bundle":.*"com.example.a":"b"`,
            ),
          },
        ],
        ...(point === "poststart" ? { runcFails: EARLY_POSTSTART } : {}),
      }),
    ),
    {
      name: "exactly the environment of a hook that has one",
      spec: SPEC,
      files: { saver: "#!/bin/sh\ncat >/dev/null; echo $A $HEARTH_CONFIG >$DIR/env\n" },
      config: { hooks: { prestart: [{ path: "$DIR/saver", env: ["A=one", "PATH=/bin:/usr/bin"] }] } },
      steps: [CREATE, { file: "$DIR/env", holds: "one" }],
    },
    {
      name: "the arguments of a hook, its name first",
      spec: SPEC,
      files: { saver: '#!/bin/sh\ncat >/dev/null; echo "$#:$*" >$DIR/args\n' },
      config: { hooks: { prestart: [{ path: "$DIR/saver", args: ["name", "x y", "z"] }] } },
      steps: [CREATE, { file: "$DIR/args", holds: "2:x y z" }],
    },
    {
      name: "a hook that does not read its state is none the worse",
      spec: SPEC,
      files: { quick: "#!/bin/sh\nexec <&-; exit 0\n" },
      config: { hooks: { prestart: [{ path: "$DIR/quick" }] } },
      steps: [CREATE],
    },
    {
      name: "a startContainer hook runs in the container, before the program",
      spec: SPEC,
      args: ["/bin/cat", "/order"],
      files: { "rootfs/hook": "#!/bin/sh\ncat >/state; hostname >/order\n" },
      config: { hostname: "inside", hooks: { startContainer: [{ path: "/hook" }] } },
      steps: [{ run: ["run", "--bundle", "$BUNDLE", "$ID"], stdout: "inside" }],
    },
    {
      name: "a startContainer hook gets the state",
      spec: SPEC,
      args: ["/bin/cat", "/state"],
      files: { "rootfs/hook": "#!/bin/sh\ncat >/state\n" },
      config: { hooks: { startContainer: [{ path: "/hook" }] } },
      steps: [
        {
          run: ["run", "--bundle", "$BUNDLE", "$ID"],
          stdout:
            /"id":"case-\d+".*"status":"creat(?:ing|ed)"|"status":"creat(?:ing|ed)".*"id":"case-\d+"|"id": ?"case-\d+"/,
        },
      ],
    },
    {
      name: "startContainer hooks that do not read their state",
      spec: SPEC,
      args: ["/bin/echo", "ran"],
      config: { hooks: { startContainer: Array.from({ length: 20 }, () => ({ path: "/bin/true" })) } },
      steps: [{ run: ["run", "--bundle", "$BUNDLE", "$ID"], stdout: "ran" }],
    },
    {
      name: "a startContainer hook that fails keeps the program from running",
      spec: SPEC,
      args: ["/bin/sh", "-c", "echo ran >/ran"],
      files: { "rootfs/hook": "#!/bin/sh\nexit 3\n" },
      config: { hooks: { startContainer: [{ path: "/hook" }] } },
      steps: [CREATE, START, { until: "stopped" }, { file: "$DIR/rootfs/ran", holds: null }],
    },
    {
      name: "a startContainer hook that fails is told on the container's standard error",
      spec: SPEC,
      args: ["/bin/echo", "ran"],
      files: {
        "rootfs/good": "#!/bin/sh\ncat >/dev/null\n",
        "rootfs/hook": "#!/bin/sh\ncat >/dev/null; echo said; echo why >&2; exit 3\n",
      },
      config: { hooks: { startContainer: [{ path: "/good" }, { path: "/hook" }] } },
      steps: [
        {
          run: ["run", "--bundle", "$BUNDLE", "$ID"],
          status: 1,
          stdout: "",
          stderr: /^error running hook #1: error running hook: exit status 3, stdout: said\n, stderr: why\n\n$/m,
        },
      ],
    },
    {
      name: "a createContainer hook runs in the namespaces of the container, before the root changes",
      spec: SPEC,
      files: { hook: WRITES_INTO_ROOT },
      config: { hostname: "inside", hooks: { createContainer: [{ path: "$DIR/hook" }] } },
      steps: [CREATE, { file: "$DIR/rootfs/seen", holds: "container" }],
    },
    {
      name: "a createContainer hook comes after createRuntime",
      spec: SPEC,
      files: { logger: LOGGER, after: "#!/bin/sh\ncat >/dev/null\n" },
      config: { hooks: { createRuntime: [hook("createRuntime")], createContainer: [{ path: "$DIR/after" }] } },
      steps: [CREATE, { file: LOG, holds: "createRuntime" }],
    },
    {
      name: "environment, arguments and timeout of the other points of the host",
      spec: SPEC,
      files: { saver: '#!/bin/sh\ncat >/dev/null; echo "$1 $A" >>$DIR/hooks.log\n' },
      config: {
        hooks: Object.fromEntries(
          ["createRuntime", "poststart", "poststop"].map((point) => [
            point,
            [{ path: "$DIR/saver", args: ["saver", point], env: ["A=own", "PATH=/bin:/usr/bin"], timeout: 20 }],
          ]),
        ),
      },
      steps: [RUN_DETACHED, FORCE, { file: LOG, holds: "createRuntime own\npoststart own\npoststop own" }],
    },
    {
      name: "environment, arguments and timeout of a startContainer hook",
      spec: SPEC,
      args: ["/bin/cat", "/seen"],
      files: { "rootfs/hook": '#!/bin/sh\ncat >/dev/null; echo "$1 $A" >/seen\n' },
      config: {
        hooks: { startContainer: [{ path: "/hook", args: ["hook", "one"], env: ["A=own", "PATH=/bin"], timeout: 20 }] },
      },
      steps: [{ run: ["run", "--bundle", "$BUNDLE", "$ID"], stdout: "one own" }],
    },
    {
      name: "a startContainer hook without an environment has the program's",
      spec: SPEC,
      args: ["/bin/cat", "/seen"],
      files: { "rootfs/hook": "#!/bin/sh\ncat >/dev/null; echo $A >/seen\n" },
      config: {
        process: { env: ["PATH=/bin", "A=the program's"] },
        hooks: { startContainer: [{ path: "/hook" }] },
      },
      steps: [{ run: ["run", "--bundle", "$BUNDLE", "$ID"], stdout: "the program's" }],
    },
    {
      name: "environment, arguments and timeout of a createContainer hook",
      spec: SPEC,
      files: { hook: '#!/bin/sh\ncat >/dev/null; test "$1 $A" = "one own"\n' },
      config: {
        hooks: {
          createContainer: [
            { path: "$DIR/hook", args: ["hook", "one"], env: ["A=own", "PATH=/bin:/usr/bin"], timeout: 20 },
          ],
        },
      },
      steps: [CREATE],
    },
    failing("prestart"),
    failing("createRuntime"),
    {
      name: "a failing createContainer hook fails the create",
      spec: SPEC,
      files: { fails: "#!/bin/sh\ncat >/dev/null; exit 3\n" },
      config: { hooks: { createContainer: [{ path: "$DIR/fails" }] } },
      steps: [{ ...CREATE, status: "fails", stderr: /error running .*hook #0/ }, GONE],
    },
    {
      name: "a failing poststart hook is an error and the end of the container",
      spec: "runtime.md#lifecycle",
      ...logging({ poststart: [FAILS], poststop: [hook("poststop")] }),
      steps: [
        CREATE,
        { ...START, status: "fails", stderr: /error running .*hook #0/ },
        GONE,
        { file: LOG, holds: "poststop" },
      ],
      runcFails: EARLY_POSTSTART,
    },
    {
      name: "a failing poststop hook is a warning, and the next one runs",
      spec: SPEC,
      ...logging({ poststop: [FAILS, hook("second")] }),
      steps: [CREATE, { ...FORCE, stderr: /hook/ }, GONE, { file: LOG, holds: "second" }],
      runcFails: "runc 1.1.5 stops at the first that fails",
    },
    {
      name: "after a hook that fails the next one of its point does not run",
      spec: SPEC,
      ...logging({ prestart: [FAILS, hook("second")] }),
      steps: [
        { ...CREATE, status: "fails" },
        { file: LOG, holds: null },
      ],
    },
    refuses("a hook that is missing", SPEC, /hook|nowhere/, {
      config: { hooks: { prestart: [{ path: "/nowhere" }] } },
    }),
    refuses("a hook with a relative path", SPEC, /absolute|path|hook/, {
      files: { hook: "#!/bin/sh\n" },
      config: { hooks: { prestart: [{ path: "hook" }] } },
      runcFails: "runc 1.1.5 finds it in the bundle",
    }),
    refuses("a hook that takes too long", SPEC, /hook/, {
      files: { slow: "#!/bin/sh\nexec sleep 100\n" },
      config: { hooks: { prestart: [{ path: "$DIR/slow", timeout: 1 }] } },
    }),
    refuses("a hook with a timeout of 0", SPEC, /timeout/, {
      config: { hooks: { prestart: [{ path: "/bin/true", timeout: 0 }] } },
    }),
  ],
};
