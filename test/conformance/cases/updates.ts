/** update: no operation of the spec, but every engine's; its limits are those of config-linux.md#control-groups. */
import type { Case, CommandStep, Step, Topic } from "../case.ts";

const MIB = 1024 * 1024;
const RUN_DETACHED = { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] } as const;
const MOUNTS = [
  { destination: "/proc", type: "proc", source: "proc" },
  { destination: "/sys", type: "sysfs", source: "sysfs", options: ["ro"] },
  { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["ro"] },
];
const NAMESPACES = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map((type) => ({ type }));
const update = (...flags: readonly string[]): CommandStep => ({ run: ["update", ...flags, "$ID"] });

/** The files of a limit: cgroup v1 (runc on test machines) and v2 (a guest). */
const FILES = {
  memory: ["memory/memory.limit_in_bytes", "memory.max"],
  reservation: ["memory/memory.soft_limit_in_bytes", "memory.low"],
  pids: ["pids/pids.max", "pids.max"],
  quota: ["cpu/cpu.cfs_quota_us", "cpu.max"],
  shares: ["cpu/cpu.shares", "cpu.weight"],
} as const;

/** A limit is what it must be, in whichever file is there. */
function is(limit: keyof typeof FILES, holds: string | RegExp): CommandStep {
  const [v1, v2] = FILES[limit];
  const script = `cat /sys/fs/cgroup/${v1} 2>/dev/null || cat /sys/fs/cgroup/${v2}`;
  return { run: ["exec", "$ID", "/bin/sh", "-c", script], stdout: holds };
}

const NO_MEMORY_LIMIT = /^(?:max|9223372036854771712)$/;
const updates = (name: string, resources: object, steps: readonly Step[], extra: Partial<Case> = {}): Case => ({
  name,
  spec: "config-linux.md#control-groups",
  config: { mounts: MOUNTS, linux: { namespaces: NAMESPACES, resources } },
  steps: [RUN_DETACHED, ...steps],
  ...extra,
});

export const UPDATES: Topic = {
  topic: "updates",
  cases: [
    updates("limits that are taken away", { memory: { limit: 64 * MIB }, pids: { limit: 20 } }, [
      update("--memory", "-1"),
      is("memory", NO_MEMORY_LIMIT),
      update("--pids-limit", "-1"),
      is("pids", "max"),
    ]),
    updates("limits where there were none", {}, [
      update("--memory", `${64 * MIB}`, "--memory-reservation", `${32 * MIB}`),
      is("memory", `${64 * MIB}`),
      is("reservation", `${32 * MIB}`),
      update("--pids-limit", "20"),
      is("pids", "20"),
      update("--cpu-share", "512"),
      is("shares", /^(?:512|20)$/),
    ]),
    updates("a CPU period where there was no limit", {}, [
      update("--cpu-period", "50000"),
      is("quota", /^(?:-1|max 50000)$/),
    ]),
    updates("a CPU quota where there was no limit", {}, [
      update("--cpu-quota", "30000"),
      is("quota", /^30000(?: 100000)?$/),
    ]),
    updates("sizes with a unit", { memory: { limit: 64 * MIB } }, [
      update("--memory", "50M"),
      is("memory", `${50 * MIB}`),
      update("--memory", "51200k"),
      is("memory", `${50 * MIB}`),
    ]),
    updates("resources in a file", { memory: { limit: 64 * MIB }, pids: { limit: 20 } }, [
      { write: "$DIR/resources.json", text: `{"memory":{"limit":${96 * MIB}},"pids":{"limit":30}}` },
      update("--resources", "$DIR/resources.json"),
      is("memory", `${96 * MIB}`),
      is("pids", "30"),
    ]),
    updates("what an update does not name stays", { memory: { limit: 64 * MIB }, pids: { limit: 20 } }, [
      update("--cpu-share", "512"),
      is("memory", `${64 * MIB}`),
      is("pids", "20"),
      { ...update("--resources", "-"), stdin: '{"pids":{"limit":40}}' },
      is("memory", `${64 * MIB}`),
      is("shares", /^(?:512|20)$/),
    ]),
    updates("memory and swap together, up and down", { memory: { limit: 64 * MIB, swap: 96 * MIB } }, [
      update("--memory", "30M", "--memory-swap", "50M"),
      is("memory", `${30 * MIB}`),
      update("--memory", "60M", "--memory-swap", "80M"),
      is("memory", `${60 * MIB}`),
    ]),
    updates("what is no limit is an error without effect", { memory: { limit: 64 * MIB }, pids: { limit: 20 } }, [
      { ...update("--memory", "much"), status: "fails", stderr: /much|memory/ },
      { ...update("--cpu-period", "100"), status: "fails" },
      { ...update("--resources", "-"), stdin: "{", status: "fails" },
      { ...update("--resources", "$DIR/nowhere.json"), status: "fails", stderr: /no such file/ },
      is("memory", `${64 * MIB}`),
      is("pids", "20"),
    ]),
    updates("a container that waits for its start", { memory: { limit: 64 * MIB } }, [], {
      steps: [
        { run: ["create", "--bundle", "$BUNDLE", "$ID"] },
        update("--memory", `${96 * MIB}`),
        { run: ["start", "$ID"] },
        is("memory", `${96 * MIB}`),
      ],
    }),
    updates("a paused container", { memory: { limit: 64 * MIB } }, [
      { run: ["pause", "$ID"] },
      update("--memory", `${96 * MIB}`),
      { run: ["resume", "$ID"] },
      is("memory", `${96 * MIB}`),
    ]),
    updates("a container that has ended is an error", {}, [], {
      args: ["/bin/true"],
      steps: [RUN_DETACHED, { until: "stopped" }, { ...update("--pids-limit", "20"), status: "fails" }],
    }),
    {
      name: "no container is an error",
      spec: "config-linux.md#control-groups",
      steps: [{ ...update("--pids-limit", "20"), status: "fails", stderr: /does not exist/ }],
    },
  ],
};
