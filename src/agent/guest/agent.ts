/** The agent's services, made once; they keep their state over any number of connections. */

import { mkdirSync, readFileSync } from "node:fs";
import { HearthError } from "../../errors.ts";
import { AgentServiceTable, agentMessages } from "../../gen/agent_table.ts";
import type { Health } from "../../gen/health_pb.ts";
import { HealthTable, healthMessages } from "../../gen/health_table.ts";
import { ociMessages } from "../../gen/oci_table.ts";
import { typesMessages } from "../../gen/types_table.ts";
import type { Log } from "../../log.ts";
import { agentPaths } from "../../paths.ts";
import type { ServedService } from "../../rpc/service.ts";
import { TableCodec } from "../../rpc/table-codec.ts";
import { registerTable } from "../../rpc/table-service.ts";
import type { CallContext, HandlersOf } from "../../rpc/ttrpc/service.ts";
import { ChildReaper } from "../../sys/child-reaper.ts";
import { becomeSubreaper } from "../../sys/process.ts";
import { VERSION } from "../../version.ts";
import type { AgentContext } from "./agent-context.ts";
import { containerHandlers } from "./container-handlers.ts";
import { type CgroupManager, Crun } from "./crun.ts";
import { guestHandlers } from "./guest-handlers.ts";
import { GuestSandbox } from "./guest-sandbox.ts";
import { networkHandlers } from "./network-handlers.ts";
import { protectFromOomKiller } from "./oom-protection.ts";

export interface AgentOptions {
  /** Where everything that the agent makes lives. Default GUEST_RUN_DIR. */
  readonly runDir?: string;
  /** Path of crun. Default /usr/bin/crun. */
  readonly crun?: string;
  /** Default "cgroupfs". With "disabled" there are no limits, statistics, pausing and OOM events. */
  readonly cgroupManager?: CgroupManager;
  /** Mount point of cgroup version 2. Default /sys/fs/cgroup. */
  readonly cgroupRoot?: string;
  /** Keep the OOM killer from the agent: without it the whole VM is lost. Needs CAP_SYS_RESOURCE. Default false. */
  readonly oomProtection?: boolean;
  readonly log: Log;
}

/** Version of the agent protocol, as Kata's agents report it. */
const PROTOCOL_VERSION = "0.0.1";

/** HealthCheckResponse.ServingStatus. */
const SERVING = 1;

const healthHandlers: HandlersOf<typeof Health> = {
  check: () => ({ status: SERVING }),
  version: () => ({ grpcVersion: PROTOCOL_VERSION, agentVersion: VERSION }),
};

export interface Agent extends AsyncDisposable {
  readonly services: readonly ServedService<CallContext>[];
}

/** Source: proc(5), /proc/PID/limits: name, soft limit, hard limit. */
function openFilesHardLimit(): number {
  const limit = /^Max open files +\S+ +(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1];
  if (limit === undefined) throw new HearthError("internal", "read limit of open files");
  return Number(limit);
}

/** Makes this process the parent of every orphan below it. Disposing removes all containers. */
export function createAgent(options: AgentOptions): Agent {
  const paths = agentPaths(options.runDir);
  const cgroupManager = options.cgroupManager ?? "cgroupfs";
  // Before anything private is made below it: the roots of containers in user namespaces are below it too.
  mkdirSync(paths.dir, { recursive: true, mode: 0o755 });
  becomeSubreaper();
  const reaper = new ChildReaper();
  reaper.start();
  const context: AgentContext = {
    paths,
    crun: new Crun({
      program: options.crun ?? "/usr/bin/crun",
      stateDir: paths.crunState,
      cgroupManager,
      log: options.log,
      startUnprotected: options.oomProtection === true ? protectFromOomKiller() : (start) => start(),
    }),
    reaper,
    cgroupRoot: cgroupManager === "disabled" ? undefined : (options.cgroupRoot ?? "/sys/fs/cgroup"),
    openFilesHardLimit: openFilesHardLimit(),
    log: options.log,
  };
  const sandbox = new GuestSandbox(context);
  const codec = new TableCodec(agentMessages, healthMessages, ociMessages, typesMessages);
  return {
    services: [
      registerTable(AgentServiceTable, codec, {
        ...containerHandlers(sandbox),
        ...guestHandlers(sandbox, context),
        ...networkHandlers(options.log),
      }),
      registerTable(HealthTable, codec, healthHandlers),
    ],
    async [Symbol.asyncDispose]() {
      try {
        await sandbox.close();
      } finally {
        reaper[Symbol.dispose]();
      }
    },
  };
}
