/** The agent's services, made once; they keep their state over any number of connections. */

import { AgentService } from "../../gen/agent_pb.ts";
import { Health, HealthCheckResponse_ServingStatus } from "../../gen/health_pb.ts";
import type { Log } from "../../log.ts";
import { agentPaths } from "../../paths.ts";
import { registerService } from "../../rpc/ttrpc/service.ts";
import { ChildReaper } from "../../sys/child-reaper.ts";
import { becomeSubreaper } from "../../sys/process.ts";
import { VERSION } from "../../version.ts";
import type { AgentContext } from "./agent-context.ts";
import { containerHandlers } from "./container-handlers.ts";
import { type CgroupManager, Crun } from "./crun.ts";
import { guestHandlers } from "./guest-handlers.ts";
import { GuestSandbox } from "./guest-sandbox.ts";
import { networkHandlers } from "./network-handlers.ts";

export interface AgentOptions {
  /** Where everything that the agent makes lives. Default GUEST_RUN_DIR. */
  readonly runDir?: string;
  /** Path of crun. Default /usr/bin/crun. */
  readonly crun?: string;
  /** Default "cgroupfs". With "disabled" there are no limits, statistics, pausing and OOM events. */
  readonly cgroupManager?: CgroupManager;
  /** Mount point of cgroup version 2. Default /sys/fs/cgroup. */
  readonly cgroupRoot?: string;
  readonly log: Log;
}

/** Version of the agent protocol, as Kata's agents report it. */
const PROTOCOL_VERSION = "0.0.1";

export interface Agent extends AsyncDisposable {
  readonly services: readonly ReturnType<typeof registerService>[];
}

/** Makes this process the parent of every orphan below it. Disposing removes all containers. */
export function createAgent(options: AgentOptions): Agent {
  const paths = agentPaths(options.runDir);
  const cgroupManager = options.cgroupManager ?? "cgroupfs";
  becomeSubreaper();
  const reaper = new ChildReaper();
  reaper.start();
  const context: AgentContext = {
    paths,
    crun: new Crun({ program: options.crun ?? "/usr/bin/crun", stateDir: paths.crunState, cgroupManager }),
    reaper,
    cgroupRoot: cgroupManager === "disabled" ? undefined : (options.cgroupRoot ?? "/sys/fs/cgroup"),
    log: options.log,
  };
  const sandbox = new GuestSandbox(context);
  return {
    services: [
      registerService(AgentService, {
        ...containerHandlers(sandbox),
        ...guestHandlers(sandbox, context),
        ...networkHandlers(),
      }),
      registerService(Health, {
        check: () => ({ status: HealthCheckResponse_ServingStatus.SERVING }),
        version: () => ({ grpcVersion: PROTOCOL_VERSION, agentVersion: VERSION }),
      }),
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
