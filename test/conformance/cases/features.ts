/** features.md: what the Features structure lists, a container may ask for. */
import { featuresWith } from "../../../src/cli/runtime/features.ts";
import { bundleConfig } from "../../harness/bundle.ts";
import { prints, type Topic } from "../case.ts";

const FEATURES = featuresWith("virtio-fs");

const SPEC = "features.md";
const RUNC = "runc lists fewer, and has fewer on this host";
const STANDARD = bundleConfig({ args: [] })["mounts"];
const { capabilities, seccomp } = FEATURES.linux;
/** A recursive option needs what can be below: a bind mount. A new file system cannot be a bind mount or a remount. */
const mountWith = (option: string): object => {
  const destination = `/mounts/${option}`;
  const isFlag = !["bind", "rbind", "remount"].includes(option);
  return isFlag && !/^r(?!o$|w$|elatime$)/.test(option)
    ? { destination, type: "tmpfs", source: "tmpfs", options: [option] }
    : { destination, type: "bind", source: "$DIR/src", options: isFlag ? ["rbind", option] : ["rbind"] };
};

/** Calls that nobody here makes, one for each action. */
const RARE_CALLS = ["acct", "delete_module", "init_module", "kexec_load", "pivot_root", "reboot", "swapoff", "vhangup"];

export const FEATURE_LISTS: Topic = {
  topic: "features",
  cases: [
    prints("every mount option", SPEC, "ls /mounts | wc -l", `${FEATURES.mountOptions.length}`, {
      directories: ["src"],
      config: { mounts: [...(Array.isArray(STANDARD) ? STANDARD : []), ...FEATURES.mountOptions.map(mountWith)] },
      runcFails: RUNC,
    }),
    prints("every capability", SPEC, "grep CapEff /proc/self/status | tr -d '\\t'", "CapEff:000001ffffffffff", {
      config: {
        process: { capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities } },
      },
      runcFails: "the test machine gives no container all capabilities",
    }),
    prints("every seccomp action, operator and architecture", SPEC, "echo ok", "ok", {
      config: {
        linux: {
          seccomp: {
            defaultAction: "SCMP_ACT_ALLOW",
            architectures: seccomp.archs,
            syscalls: [
              ...seccomp.actions.map((action, index) => ({ names: [RARE_CALLS[index] ?? ""], action })),
              ...seccomp.operators.map((op) => ({
                names: ["swapon"],
                action: "SCMP_ACT_ERRNO",
                args: [{ index: 1, value: 1, valueTwo: 1, op }],
              })),
            ],
          },
        },
      },
    }),
    prints("every supported flag of seccomp", SPEC, "echo ok", "ok", {
      config: {
        linux: {
          seccomp: {
            defaultAction: "SCMP_ACT_ALLOW",
            flags: seccomp.supportedFlags,
            syscalls: [{ names: ["reboot"], action: "SCMP_ACT_ERRNO" }],
          },
        },
      },
      runcFails: "runc 1.1.5 takes no flags",
    }),
  ],
};
