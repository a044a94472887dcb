/** config.md: process.capabilities. */
import { prints, refuses, type Topic } from "../case.ts";

/** The five sets of the shell that reads them, as hexadecimal masks. */
const SETS = "grep ^Cap /proc/self/status | tr -d '\\t' | sed 's/Cap//;s/:0*/:/'";
const SPEC = "config.md#linux-process";
const CHOWN = "CAP_CHOWN";
const KILL = "CAP_KILL";

export const CAPABILITIES: Topic = {
  topic: "capabilities",
  cases: [
    prints("bounding, effective, permitted of root", SPEC, SETS, "Inh:\nPrm:21\nEff:21\nBnd:21\nAmb:", {
      config: {
        process: {
          capabilities: { bounding: [CHOWN, KILL], effective: [CHOWN, KILL], permitted: [CHOWN, KILL] },
          noNewPrivileges: false,
        },
      },
    }),
    prints("inheritable", SPEC, SETS, "Inh:1\nPrm:21\nEff:21\nBnd:21\nAmb:", {
      config: {
        process: {
          capabilities: {
            bounding: [CHOWN, KILL],
            effective: [CHOWN, KILL],
            permitted: [CHOWN, KILL],
            inheritable: [CHOWN],
          },
        },
      },
    }),
    prints("ambient capabilities reach a user that is not root", SPEC, SETS, "Inh:1\nPrm:1\nEff:1\nBnd:1\nAmb:1", {
      config: {
        process: {
          user: { uid: 1000, gid: 1000 },
          capabilities: {
            bounding: [CHOWN],
            effective: [CHOWN],
            permitted: [CHOWN],
            inheritable: [CHOWN],
            ambient: [CHOWN],
          },
        },
      },
    }),
    prints("without ambient ones a user that is not root has none", SPEC, SETS, "Inh:\nPrm:\nEff:\nBnd:1\nAmb:", {
      config: {
        process: {
          user: { uid: 1000, gid: 1000 },
          capabilities: { bounding: [CHOWN], effective: [CHOWN], permitted: [CHOWN] },
        },
      },
    }),
    prints("none at all", SPEC, SETS, "Inh:\nPrm:\nEff:\nBnd:\nAmb:", {
      config: { process: { capabilities: { bounding: [], effective: [], permitted: [] } } },
    }),
    prints("no capabilities member", SPEC, SETS, "Inh:\nPrm:\nEff:\nBnd:\nAmb:", {
      config: { process: { capabilities: undefined } },
    }),
    prints("no bounding set is an empty one", SPEC, SETS, "Inh:\nPrm:\nEff:\nBnd:\nAmb:", {
      config: { process: { capabilities: { effective: [], permitted: [], inheritable: [], ambient: [] } } },
    }),
    prints("permitted ones beyond the bounding set end with the program's start", SPEC, SETS, /Prm:1\nEff:1\nBnd:1\n/, {
      config: { process: { capabilities: { bounding: [CHOWN], effective: [CHOWN], permitted: [CHOWN, KILL] } } },
    }),
    {
      name: "inheritable ones beyond the bounding set are an error",
      spec: SPEC,
      config: { process: { capabilities: { effective: [KILL], permitted: [KILL], inheritable: [KILL] } } },
      steps: [{ run: ["run", "--bundle", "$BUNDLE", "$ID"], status: "fails", stderr: /not permitted/i }],
    },
    {
      name: "what is executed in a container has its sets, and --cap adds to them",
      spec: SPEC,
      config: {
        process: {
          capabilities: { bounding: [CHOWN, KILL], effective: [CHOWN], permitted: [CHOWN], inheritable: [CHOWN] },
        },
      },
      steps: [
        { run: ["run", "--detach", "--bundle", "$BUNDLE", "$ID"] },
        { run: ["exec", "$ID", "/bin/sh", "-c", SETS], stdout: "Inh:1\nPrm:1\nEff:1\nBnd:21\nAmb:" },
        {
          run: ["exec", "--cap", "CAP_SYSLOG", "$ID", "/bin/sh", "-c", SETS],
          stdout: /^Inh:1\nPrm:400000001\nEff:400000001\nBnd:400000021\n/,
        },
      ],
    },
    prints("what a missing capability forbids", SPEC, "chown 5 /x 2>/dev/null || echo denied", "denied", {
      files: { "rootfs/x": "" },
      config: { process: { capabilities: { bounding: [KILL], effective: [KILL], permitted: [KILL] } } },
    }),
    prints("what a granted capability allows", SPEC, "chown 5 /x && stat -c %u /x", "5", {
      files: { "rootfs/x": "" },
      config: { process: { capabilities: { bounding: [CHOWN], effective: [CHOWN], permitted: [CHOWN] } } },
    }),
    prints("a capability that nobody knows is a warning", SPEC, "echo ok", "ok", {
      config: {
        process: {
          capabilities: {
            bounding: ["CAP_FUTURE", CHOWN],
            effective: ["CAP_FUTURE", CHOWN],
            permitted: ["CAP_FUTURE", CHOWN],
          },
        },
      },
    }),
    refuses("a capability set that is no list", SPEC, undefined, {
      config: { process: { capabilities: { bounding: "CAP_KILL" } } },
    }),
  ],
};
