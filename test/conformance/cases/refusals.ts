/** What a VM cannot apply is an error that names the property: a property that cannot be applied must not be dropped. */
import { bundleConfig } from "../../harness/bundle.ts";
import { type Case, refuses, type Topic } from "../case.ts";

const SPEC = "runtime.md#create";
const HOST = "runc shares the kernel of the host";
const LATER = "runc 1.1.5 does not know the property and ignores it";
const STANDARD = bundleConfig({ args: [] })["mounts"];
const linux = (members: object): Pick<Case, "config"> => ({ config: { linux: members } });
const process = (members: object): Pick<Case, "config"> => ({ config: { process: members } });
const refused = (name: string, why: RegExp, extra: Pick<Case, "config"> & Partial<Case>, runcFails: string): Case =>
  refuses(name, SPEC, why, { ...extra, runcFails });
/** As runc on a host like this one. */
const refusedByBoth = (name: string, why: RegExp, extra: Pick<Case, "config">): Case => refuses(name, SPEC, why, extra);
const namespacesWith = (entry: object): object[] => [
  ...["network", "mount", "pid"]
    .map((type) => ({ type }))
    .filter(({ type }) => !("type" in entry) || entry.type !== type),
  entry,
];

export const REFUSALS: Topic = {
  topic: "refusals",
  cases: [
    refused(
      "the network of the host",
      /linux\.namespaces without network/,
      linux({ namespaces: ["pid", "mount"].map((type) => ({ type })) }),
      HOST,
    ),
    refused(
      "the network of the host by its path",
      /linux\.namespaces network path: .* is the host's network/,
      linux({ namespaces: namespacesWith({ type: "network", path: "/proc/self/ns/net" }) }),
      HOST,
    ),
    ...["ipc", "uts", "pid", "mount", "user", "cgroup"].map((type) =>
      refused(
        `a ${type} namespace of the host`,
        new RegExp(`linux\\.namespaces ${type} path`),
        {
          ...linux({ namespaces: namespacesWith({ type, path: `/proc/1/ns/${type === "mount" ? "mnt" : type}` }) }),
          alone: true,
        },
        HOST,
      ),
    ),
    refused(
      "a disk of the host",
      /linux\.devices \/dev\/disk/,
      linux({ devices: [{ path: "/dev/disk", type: "b", major: "$MAJOR", minor: "$MINOR" }] }),
      HOST,
    ),
    refused(
      "a device of the host as a mount",
      /is a device of the host/,
      {
        config: {
          mounts: [
            ...(Array.isArray(STANDARD) ? STANDARD : []),
            { destination: "/dev/kmsg", type: "bind", source: "/dev/kmsg", options: ["bind"] },
          ],
        },
      },
      HOST,
    ),
    refused(
      "a resource of block devices",
      /blockIO\.throttleReadBpsDevice/,
      linux({ resources: { blockIO: { throttleReadBpsDevice: [{ major: 999, minor: 0, rate: 1000 }] } } }),
      HOST,
    ),
    refused("network classes", /linux\.resources\.network/, linux({ resources: { network: { classID: 5 } } }), HOST),
    refused("real-time CPU", /realtimeRuntime/, linux({ resources: { cpu: { realtimeRuntime: 1000 } } }), HOST),
    refused("Intel RDT", /linux\.intelRdt/, linux({ intelRdt: { closID: "x" } }), HOST),
    refused("memory policy", /linux\.memoryPolicy/, linux({ memoryPolicy: { mode: "MPOL_BIND", nodes: "0" } }), LATER),
    refused("CPU affinity of exec", /process\.execCPUAffinity/, process({ execCPUAffinity: { initial: "0" } }), LATER),
    refusedByBoth(
      "an AppArmor profile that the host has not loaded",
      /apparmor failed to apply profile/,
      process({ apparmorProfile: "hearth-missing" }),
    ),
    refusedByBoth(
      "an SELinux label on a host without SELinux",
      /selinux.* is disabled or not supported/,
      process({ selinuxLabel: "system_u:system_r:container_t:s0" }),
    ),
    refusedByBoth(
      "a label of mounts on a host without SELinux",
      /mount/,
      linux({ mountLabel: "system_u:object_r:container_file_t:s0" }),
    ),
    refused(
      "a seccomp listener",
      /listenerPath/,
      linux({
        seccomp: {
          defaultAction: "SCMP_ACT_ALLOW",
          listenerPath: "/run/x.sock",
          syscalls: [{ names: ["mkdir"], action: "SCMP_ACT_NOTIFY" }],
        },
      }),
      HOST,
    ),
  ],
};
