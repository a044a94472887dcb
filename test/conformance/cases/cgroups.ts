/** config-linux.md: control groups. runc's are those of the host (v1 here), ours those of the guest (v2). */
import { type Case, type FileStep, prints, refuses, type Topic } from "../case.ts";

const MIB = 1024 * 1024;
const MOUNTS = [
  { destination: "/proc", type: "proc", source: "proc" },
  { destination: "/sys", type: "sysfs", source: "sysfs", options: ["ro"] },
  { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["ro", "nosuid", "noexec", "nodev"] },
];
const NAMESPACES = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map((type) => ({ type }));
/** The value of the v1 or of the v2 file, whichever is there. */
const value = (v1: string, v2: string): string => `cat /sys/fs/cgroup/${v1} 2>/dev/null || cat /sys/fs/cgroup/${v2}`;
const limited = (
  name: string,
  section: string,
  resources: object,
  script: string,
  stdout: string | RegExp,
  extra: object = {},
): Case =>
  prints(name, `config-linux.md#${section}`, script, stdout, {
    config: { mounts: MOUNTS, linux: { namespaces: NAMESPACES, resources } },
    ...extra,
  });

/** Prints quota and period of the container's cgroup. */
const CPU_LIMIT =
  "cat /sys/fs/cgroup/cpu.max 2>/dev/null || echo $(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us) $(cat /sys/fs/cgroup/cpu/cpu.cfs_period_us)";
const cpuLimit = { run: ["exec", "$ID", "/bin/sh", "-c", CPU_LIMIT] } as const;

export const CGROUPS: Topic = {
  topic: "cgroups",
  cases: [
    limited(
      "a memory limit",
      "memory",
      { memory: { limit: 64 * MIB } },
      value("memory/memory.limit_in_bytes", "memory.max"),
      `${64 * MIB}`,
    ),
    limited(
      "a soft memory limit",
      "memory",
      { memory: { limit: 64 * MIB, reservation: 32 * MIB } },
      value("memory/memory.soft_limit_in_bytes", "memory.low"),
      `${32 * MIB}`,
    ),
    limited(
      "no memory limit",
      "memory",
      { memory: { limit: -1 } },
      value("memory/memory.limit_in_bytes", "memory.max"),
      /^(?:max|9223372036854771712)$/,
    ),
    limited(
      "who takes more memory than the limit is killed",
      "memory",
      { memory: { limit: 16 * MIB } },
      "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null || echo killed",
      "killed",
    ),
    limited("a limit of processes", "pids", { pids: { limit: 33 } }, value("pids/pids.max", "pids.max"), "33"),
    limited("no limit of processes", "pids", { pids: { limit: -1 } }, value("pids/pids.max", "pids.max"), "max"),
    limited(
      "more processes than the limit cannot be",
      "pids",
      { pids: { limit: 4 } },
      "(for i in 1 2 3 4 5 6; do sleep 1 & done) 2>/dev/null || echo refused",
      "refused",
    ),
    limited("CPU quota and period", "cpu", { cpu: { quota: 50_000, period: 100_000 } }, CPU_LIMIT, "50000 100000"),
    limited("a CPU quota without a period", "cpu", { cpu: { quota: 5000 } }, CPU_LIMIT, "5000 100000"),
    limited("a CPU period without a quota", "cpu", { cpu: { period: 50_000 } }, CPU_LIMIT, /^(?:max|-1) 50000$/),
    refusesResources("a CPU period that no kernel takes", "cpu", { cpu: { period: 100 } }),
    refusesResources("huge pages of a size that no machine has", "huge-page-limits", {
      hugepageLimits: [{ pageSize: "3MB", limit: 3 * MIB }],
    }),
    limited("CPU shares", "cpu", { cpu: { shares: 512 } }, value("cpu/cpu.shares", "cpu.weight"), /^(?:512|20)$/),
    limited(
      "values of cgroup v2 itself",
      "unified",
      { unified: { "memory.high": `${48 * MIB}` } },
      "cat /sys/fs/cgroup/memory.high",
      `${48 * MIB}`,
      {
        runcFails: "the host has cgroup v1",
      },
    ),
    refusesResources("a value of cgroup v2 that does not exist", "unified", { unified: { "memory.bogus": "1" } }),
    limited(
      "a limit of huge pages",
      "huge-page-limits",
      { hugepageLimits: [{ pageSize: "2MB", limit: 4 * MIB }] },
      "cat /sys/fs/cgroup/hugetlb.2MB.max",
      `${4 * MIB}`,
      {
        runcFails: "the host has cgroup v1, and on test machines no controller of huge pages",
      },
    ),
    limited(
      "memory, processes and CPU at once",
      "control-groups",
      { memory: { limit: 64 * MIB }, pids: { limit: 50 }, cpu: { shares: 1024 } },
      `${value("pids/pids.max", "pids.max")}; ${value("memory/memory.limit_in_bytes", "memory.max")}`,
      `50\n${64 * MIB}`,
    ),
    limited(
      "memory and swap",
      "memory",
      { memory: { limit: 64 * MIB, swap: 96 * MIB, checkBeforeUpdate: true } },
      value("memory/memory.memsw.limit_in_bytes", "memory.swap.max"),
      /^(?:100663296|33554432)$/,
    ),
    limited(
      "CPU burst",
      "cpu",
      { cpu: { quota: 50_000, period: 100_000, burst: 20_000 } },
      "cat /sys/fs/cgroup/cpu.max.burst",
      "20000",
      {
        runcFails: "runc 1.1.5 does not know it",
      },
    ),
    limited("idle CPU", "cpu", { cpu: { idle: 1 } }, "cat /sys/fs/cgroup/cpu.idle", "1", {
      runcFails: "runc 1.1.5 does not know it",
    }),
    {
      name: "limits that hold for the whole VM, on the host",
      spec: "config-linux.md#control-groups",
      alone: true,
      config: {
        linux: {
          cgroupsPath: "/hearth-conformance-$ID",
          resources: {
            cpu: { shares: 512, quota: 80_000, period: 100_000, cpus: "0", mems: "0" },
            blockIO: {
              throttleReadBpsDevice: [{ major: "$MAJOR", minor: "$MINOR", rate: 100_000_000 }],
              throttleWriteBpsDevice: [{ major: "$MAJOR", minor: "$MINOR", rate: 200_000_000 }],
              throttleReadIOPSDevice: [{ major: "$MAJOR", minor: "$MINOR", rate: 30_000 }],
              throttleWriteIOPSDevice: [{ major: "$MAJOR", minor: "$MINOR", rate: 40_000 }],
            },
          },
        },
      },
      steps: [
        { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] },
        hostLimit("cpu/cpu.shares", "512"),
        hostLimit("cpu/cpu.cfs_quota_us", "80000"),
        hostLimit("cpu/cpu.cfs_period_us", "100000"),
        hostLimit("cpuset/cpuset.cpus", "0"),
        hostLimit("cpuset/cpuset.mems", "0"),
        hostLimit("blkio/blkio.throttle.read_bps_device", "$DISK 100000000"),
        hostLimit("blkio/blkio.throttle.write_bps_device", "$DISK 200000000"),
        hostLimit("blkio/blkio.throttle.read_iops_device", "$DISK 30000"),
        hostLimit("blkio/blkio.throttle.write_iops_device", "$DISK 40000"),
        { run: ["update", "--cpu-quota", "90000", "--cpu-period", "100000", "--cpuset-cpus", "0-1", "$ID"] },
        hostLimit("cpu/cpu.cfs_quota_us", "90000"),
        hostLimit("cpuset/cpuset.cpus", "0-1"),
        { run: ["delete", "--force", "$ID"] },
        { file: hostFile("cpu/cpu.shares"), holds: null },
      ],
    },
    {
      name: "weights of block I/O, where the host's kernel has any",
      spec: "config-linux.md#block-io",
      alone: true,
      config: {
        linux: {
          resources: {
            blockIO: {
              weight: 100,
              leafWeight: 100,
              weightDevice: [{ major: "$MAJOR", minor: "$MINOR", weight: 200, leafWeight: 200 }],
            },
          },
        },
      },
      steps: [{ run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] }],
      runcFails: "runc fails where the kernel has no weights",
    },
    {
      name: "an update that a VM is too small for",
      spec: "runtime.md#operations",
      alone: true,
      config: { mounts: MOUNTS, linux: { namespaces: NAMESPACES, resources: { memory: { limit: 64 * MIB } } } },
      steps: [
        { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] },
        { run: ["update", "--memory", `${1536 * MIB}`, "$ID"] },
        {
          run: [
            "exec",
            "$ID",
            "/bin/sh",
            "-c",
            "test $(awk '/MemTotal/ {print $2}' /proc/meminfo) -ge 1572864 && echo large",
          ],
          stdout: "large",
        },
      ],
    },
    {
      name: "events until the container ends, with OOM kills",
      runcFails: "runc 1.1.5 goes on when the container has ended",
      spec: "runtime.md#operations",
      args: ["/bin/sh", "-c", "until [ -e /go ]; do sleep 0.05; done; dd if=/dev/zero of=/dev/null bs=64M count=1"],
      config: { linux: { resources: { memory: { limit: 16 * MIB } } } },
      steps: [
        { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] },
        { run: ["exec", "--detach", "$ID", "/bin/sh", "-c", "sleep 0.5; touch /go"] },
        {
          run: ["events", "--interval", "100ms", "$ID"],
          stdout: /"type":"stats"[\s\S]*"type":"oom"/,
          timeoutMs: 20_000,
        },
      ],
    },
    cgroupsPath("an absolute cgroupsPath", "/hearth-conformance-$ID"),
    cgroupsPath("a relative cgroupsPath", "hearth-conformance-$ID"),
    {
      name: "update changes limits of a running container",
      spec: "runtime.md#operations",
      config: {
        mounts: MOUNTS,
        linux: { namespaces: NAMESPACES, resources: { memory: { limit: 64 * MIB }, pids: { limit: 50 } } },
      },
      steps: [
        { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] },
        { run: ["update", "--memory", `${96 * MIB}`, "--pids-limit", "60", "$ID"] },
        {
          run: [
            "exec",
            "$ID",
            "/bin/sh",
            "-c",
            `${value("memory/memory.limit_in_bytes", "memory.max")}; ${value("pids/pids.max", "pids.max")}`,
          ],
          stdout: `${96 * MIB}\n60`,
        },
        { run: ["update", "--resources", "-", "$ID"], stdin: `{"pids":{"limit":70},"memory":{"limit":${80 * MIB}}}` },
        {
          run: [
            "exec",
            "$ID",
            "/bin/sh",
            "-c",
            `${value("memory/memory.limit_in_bytes", "memory.max")}; ${value("pids/pids.max", "pids.max")}`,
          ],
          stdout: `${80 * MIB}\n70`,
        },
        { run: ["update", "--cpu-quota", "20000", "--cpu-period", "100000", "$ID"] },
        { ...cpuLimit, stdout: "20000 100000" },
      ],
    },
    {
      name: "an update of one half of the CPU limit leaves the other",
      spec: "config-linux.md#cpu",
      config: { linux: { resources: { cpu: { quota: 50_000, period: 100_000 }, memory: { limit: 64 * MIB } } } },
      steps: [
        { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] },
        { run: ["update", "$ID", "--cpu-period", "90000"] },
        { ...cpuLimit, stdout: "50000 90000" },
        { run: ["update", "$ID", "--cpu-quota", "60000"] },
        { ...cpuLimit, stdout: "60000 90000" },
        { run: ["update", "$ID", "--cpu-quota", "-1"] },
        { ...cpuLimit, stdout: /^(max|-1) 90000$/ },
      ],
    },
    {
      name: "events --stats tells usage and limits",
      spec: "runtime.md#operations",
      config: { linux: { resources: { pids: { limit: 50 } } } },
      steps: [
        { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] },
        { run: ["events", "--stats", "$ID"], json: { type: "stats", id: "$ID", data: { pids: { limit: 50 } } } },
      ],
    },
  ],
};

function refusesResources(name: string, section: string, resources: object): Case {
  return refuses(name, `config-linux.md#${section}`, undefined, { config: { linux: { resources } } });
}

/** In the cgroup of the case on a host with cgroup v1. */
function hostFile(file: string): string {
  const [controller, name] = file.split("/");
  return `/sys/fs/cgroup/${controller}/hearth-conformance-$ID/${name}`;
}

function hostLimit(file: string, holds: string): FileStep {
  return { file: hostFile(file), holds };
}

/** The same place in the hierarchy for the same value, and nothing of it left after delete. */
function cgroupsPath(name: string, path: string): Case {
  const file = "/sys/fs/cgroup/pids/hearth-conformance-$ID/cgroup.procs";
  return {
    name,
    spec: "config-linux.md#cgroups-path",
    config: { linux: { cgroupsPath: path } },
    steps: [
      { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] },
      { file, holds: /^\d+/ },
      { run: ["delete", "--force", "$ID"] },
      { file, holds: null },
    ],
  };
}
