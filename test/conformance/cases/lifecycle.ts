/** runtime.md: operations, states, errors. */
import { type Case, prints, refuses, type Topic } from "../case.ts";

const CREATE = { run: ["create", "--bundle", "$BUNDLE", "$ID"] } as const;
const START = { run: ["start", "$ID"] } as const;
const KILL = { run: ["kill", "$ID", "KILL"] } as const;
const DELETE = { run: ["delete", "$ID"] } as const;
const RUN_DETACHED = { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] } as const;

/** A script that says which signal it got, and then ends. */
const trapping = (signal: string): readonly string[] => [
  "/bin/sh",
  "-c",
  `trap 'echo got ${signal} >/shared/log; exit 7' ${signal}; echo ready >/shared/log; while :; do sleep 0.05; done`,
];
const SHARED = {
  directories: ["shared"],
  config: {
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/shared", type: "bind", source: "$DIR/shared", options: ["bind"] },
    ],
  },
} as const;

const signalled = (name: string, sent: string, trapped: string): Case => ({
  name,
  spec: "runtime.md#kill",
  args: trapping(trapped),
  ...SHARED,
  steps: [
    RUN_DETACHED,
    { run: ["exec", "$ID", "/bin/sh", "-c", "until [ -s /shared/log ]; do sleep 0.05; done"] },
    { run: ["kill", "$ID", sent] },
    { until: "stopped" },
    { file: "$DIR/shared/log", holds: `got ${trapped}` },
  ],
});

export const LIFECYCLE: Topic = {
  topic: "lifecycle",
  cases: [
    {
      name: "create, start, kill, delete, with the state in between",
      spec: "runtime.md#lifecycle",
      steps: [
        CREATE,
        { run: ["state", "$ID"], json: { id: "$ID", status: "created", bundle: "$BUNDLE" } },
        START,
        { run: ["state", "$ID"], json: { id: "$ID", status: "running", bundle: "$BUNDLE" } },
        KILL,
        { until: "stopped" },
        { run: ["state", "$ID"], json: { id: "$ID", status: "stopped", bundle: "$BUNDLE" } },
        DELETE,
        { run: ["state", "$ID"], status: 1, stderr: /does not exist/ },
      ],
    },
    {
      name: "the state has the version of the spec, a pid while there is one, and the annotations",
      spec: "runtime.md#state",
      config: { annotations: { "com.example.key": "value" } },
      steps: [
        CREATE,
        {
          run: ["state", "$ID"],
          stdout: /"ociVersion": ?"1\.[\s\S]*"pid": ?[1-9]\d*/,
          json: { annotations: { "com.example.key": "value" } },
        },
      ],
    },
    {
      name: "a stopped container has no pid",
      spec: "runtime.md#state",
      args: ["/bin/true"],
      steps: [CREATE, START, { until: "stopped" }, { run: ["state", "$ID"], json: { pid: 0 } }],
    },
    {
      name: "state without an id is an error",
      spec: "runtime.md#query-state",
      steps: [{ run: ["state"], status: "fails" }],
    },
    {
      name: "the state of no container is an error",
      spec: "runtime.md#query-state",
      steps: [{ run: ["state", "$ID"], status: 1, stderr: /does not exist/ }],
    },
    {
      name: "create without an id is an error",
      spec: "runtime.md#create",
      steps: [{ run: ["create", "--bundle", "$BUNDLE"], status: "fails" }],
    },
    {
      name: "create without a bundle that is one is an error",
      spec: "runtime.md#create",
      steps: [
        { run: ["create", "--bundle", "$DIR/nothing", "$ID"], status: "fails" },
        { run: ["state", "$ID"], status: 1, stderr: /does not exist/ },
      ],
    },
    {
      name: "the bundle is the working directory unless one is named",
      spec: "runtime.md#create",
      steps: [{ run: ["create", "$ID"] }, { run: ["state", "$ID"], json: { bundle: "$BUNDLE" } }],
    },
    {
      name: "an id that is taken is an error, and changes nothing",
      spec: "runtime.md#create",
      steps: [
        CREATE,
        { ...CREATE, status: "fails", stderr: /already exists/ },
        { run: ["state", "$ID"], json: { status: "created" } },
        START,
      ],
    },
    ...["", "a b", "../x", "a/b", ".", ".."].map(
      (id): Case => ({
        name: `the id ${JSON.stringify(id)} is not valid`,
        spec: "runtime.md#create",
        steps: [{ run: ["create", "--bundle", "$BUNDLE", id], status: "fails" }],
      }),
    ),
    {
      name: "the program does not run before start",
      spec: "runtime.md#create",
      args: ["/bin/sh", "-c", "echo ran >/shared/log"],
      ...SHARED,
      steps: [
        CREATE,
        { file: "$DIR/shared/log", holds: null },
        START,
        { until: "stopped" },
        { file: "$DIR/shared/log", holds: "ran" },
      ],
    },
    {
      name: "config.json may change after create without effect",
      spec: "runtime.md#lifecycle",
      args: ["/bin/sh", "-c", "echo first >/shared/log"],
      ...SHARED,
      steps: [
        CREATE,
        { write: "$BUNDLE/config.json", text: "{}" },
        START,
        { until: "stopped" },
        { file: "$DIR/shared/log", holds: "first" },
      ],
    },
    {
      name: "start without an id is an error",
      spec: "runtime.md#start",
      steps: [{ run: ["start"], status: "fails" }],
    },
    {
      name: "starting no container is an error",
      spec: "runtime.md#start",
      steps: [{ ...START, status: "fails", stderr: /does not exist/ }],
    },
    {
      name: "starting a running container is an error without effect",
      spec: "runtime.md#start",
      steps: [RUN_DETACHED, { ...START, status: "fails" }, { run: ["state", "$ID"], json: { status: "running" } }],
    },
    {
      name: "starting a stopped container is an error without effect",
      spec: "runtime.md#start",
      args: ["/bin/true"],
      steps: [
        RUN_DETACHED,
        { until: "stopped" },
        { ...START, status: "fails" },
        { run: ["state", "$ID"], json: { status: "stopped" } },
      ],
    },
    {
      name: "kill without an id is an error",
      spec: "runtime.md#kill",
      steps: [{ run: ["kill"], status: "fails" }],
    },
    {
      name: "killing no container is an error",
      spec: "runtime.md#kill",
      steps: [{ ...KILL, status: "fails", stderr: /does not exist/ }],
    },
    {
      name: "killing a stopped container is an error without effect",
      spec: "runtime.md#kill",
      args: ["/bin/true"],
      steps: [RUN_DETACHED, { until: "stopped" }, { ...KILL, status: 1, stderr: /container not running/ }],
    },
    {
      name: "a created container can be killed",
      spec: "runtime.md#kill",
      steps: [CREATE, KILL, { until: "stopped" }, DELETE],
    },
    {
      name: "a created container ends by TERM",
      spec: "runtime.md#kill",
      steps: [CREATE, { run: ["kill", "$ID", "TERM"] }, { until: "stopped" }, DELETE],
    },
    {
      name: "without a signal TERM is sent",
      spec: "runtime.md#kill",
      args: trapping("TERM"),
      ...SHARED,
      steps: [
        RUN_DETACHED,
        { run: ["exec", "$ID", "/bin/sh", "-c", "until [ -s /shared/log ]; do sleep 0.05; done"] },
        { run: ["kill", "$ID"] },
        { until: "stopped" },
        { file: "$DIR/shared/log", holds: "got TERM" },
      ],
    },
    signalled("a signal by its full name", "SIGUSR1", "USR1"),
    signalled("a signal by its short name", "HUP", "HUP"),
    signalled("a signal in small letters", "int", "INT"),
    signalled("a signal by its number", "12", "USR2"),
    signalled("a real-time signal by its number", "37", "37"),
    { ...signalled("a real-time signal by its name", "SIGRTMIN+3", "37"), runcFails: "runc knows no such names" },
    {
      name: "a signal that nobody knows is an error",
      spec: "runtime.md#kill",
      steps: [
        RUN_DETACHED,
        { run: ["kill", "$ID", "BOGUS"], status: 1, stderr: /unknown signal/ },
        { run: ["state", "$ID"], json: { status: "running" } },
      ],
    },
    {
      name: "a signal that the program ignores does nothing",
      spec: "runtime.md#kill",
      args: ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"],
      steps: [RUN_DETACHED, { run: ["kill", "$ID", "CONT"] }, { run: ["state", "$ID"], json: { status: "running" } }],
    },
    {
      name: "kill --all reaches every process",
      spec: "runtime.md#kill",
      args: ["/bin/sh", "-c", "(trap 'echo child >/shared/log; exit' TERM; while :; do sleep 0.05; done) & wait; wait"],
      ...SHARED,
      steps: [
        RUN_DETACHED,
        { run: ["exec", "$ID", "/bin/sh", "-c", "until [ $(ls -d /proc/[0-9]* | wc -l) -ge 4 ]; do sleep 0.05; done"] },
        { run: ["kill", "--all", "$ID", "KILL"] },
        { until: "stopped" },
        DELETE,
      ],
    },
    {
      name: "delete without an id is an error",
      spec: "runtime.md#delete",
      steps: [{ run: ["delete"], status: "fails" }],
    },
    {
      name: "deleting no container is an error",
      spec: "runtime.md#delete",
      steps: [{ ...DELETE, status: "fails", stderr: /does not exist/ }],
    },
    {
      name: "deleting no container with --force is none",
      spec: "runtime.md#delete",
      steps: [{ run: ["delete", "--force", "$ID"] }],
    },
    {
      name: "deleting a running container is an error without effect",
      spec: "runtime.md#delete",
      steps: [
        RUN_DETACHED,
        { ...DELETE, status: "fails", stderr: /not stopped: running/ },
        { run: ["state", "$ID"], json: { status: "running" } },
      ],
    },
    {
      name: "delete --force ends what runs",
      spec: "runtime.md#delete",
      steps: [
        RUN_DETACHED,
        { run: ["delete", "--force", "$ID"] },
        { run: ["state", "$ID"], status: 1, stderr: /does not exist/ },
      ],
    },
    {
      name: "delete leaves what it did not create",
      spec: "runtime.md#delete",
      args: ["/bin/sh", "-c", "echo kept >/shared/log; echo kept >/inside"],
      ...SHARED,
      steps: [
        RUN_DETACHED,
        { until: "stopped" },
        DELETE,
        { file: "$DIR/shared/log", holds: "kept" },
        { file: "$DIR/rootfs/inside", holds: "kept" },
      ],
    },
    {
      name: "an id is free again after delete",
      spec: "runtime.md#delete",
      args: ["/bin/true"],
      steps: [RUN_DETACHED, { until: "stopped" }, DELETE, RUN_DETACHED, { until: "stopped" }],
    },
    {
      name: "pause and resume",
      spec: "runtime.md#state",
      steps: [
        RUN_DETACHED,
        { run: ["pause", "$ID"] },
        { run: ["state", "$ID"], json: { status: "paused" } },
        { run: ["exec", "$ID", "/bin/true"], status: 255, stderr: /paused/ },
        { run: ["resume", "$ID"] },
        { run: ["state", "$ID"], json: { status: "running" } },
        { run: ["resume", "$ID"], status: 1, stderr: /not paused/ },
      ],
    },
    {
      name: "a container that waits for its start can be paused",
      spec: "runtime.md#state",
      steps: [
        CREATE,
        { run: ["pause", "$ID"] },
        { run: ["state", "$ID"], json: { status: "paused" } },
        { run: ["start", "$ID"], status: 1, stderr: /paused/ },
        { run: ["resume", "$ID"] },
        { run: ["state", "$ID"], json: { status: "created" } },
        { run: ["start", "$ID"] },
        { until: "running" },
      ],
    },
    {
      name: "a paused container can be killed",
      spec: "runtime.md#kill",
      steps: [RUN_DETACHED, { run: ["pause", "$ID"] }, KILL, { until: "stopped" }],
    },
    prints("the exit status of the program is run's", "runtime.md#start", "exit 42", "", { status: 42 }),
    prints("a program that a signal ends is 128 and the signal", "runtime.md#start", "kill -9 $$; sleep 1", "", {
      status: 137,
      config: { linux: { namespaces: ["network", "ipc", "uts", "mount"].map((type) => ({ type })) } },
    }),
    {
      name: "a program without a name",
      spec: "config.md#process",
      args: [""],
      steps: [{ ...CREATE, status: "fails", stderr: /exec: .*: executable file not found in \$PATH/ }],
    },
    {
      name: "a program that is not there is an error of create, and nothing is left",
      spec: "runtime.md#errors",
      args: ["/nowhere"],
      steps: [
        {
          ...CREATE,
          status: "fails",
          stderr: /create failed: unable to start container process: exec: .*: (?:stat .*: )?no such file or directory/,
        },
        { run: ["state", "$ID"], status: 1, stderr: /does not exist/ },
      ],
    },
    {
      name: "run --keep leaves a stopped container",
      spec: "runtime.md#lifecycle",
      args: ["/bin/sh", "-c", "exit 3"],
      steps: [
        { run: ["run", "--keep", "--bundle", "$BUNDLE", "$ID"], status: 3 },
        { run: ["state", "$ID"], json: { status: "stopped" } },
        DELETE,
      ],
    },
    refuses("a bundle without config.json", "runtime.md#create", /config\.json/, {
      steps: [
        { run: ["create", "--bundle", "$DIR/rootfs", "$ID"], status: "fails", stderr: /config\.json.*not found/ },
        { run: ["state", "$ID"], status: 1 },
      ],
    }),
  ],
};
