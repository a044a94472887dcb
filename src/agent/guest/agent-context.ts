/** What the parts of the agent share: where things are and who starts and collects processes. */
import type { Log } from "../../log.ts";
import type { AgentPaths } from "../../paths.ts";
import type { ChildReaper } from "../../sys/child-reaper.ts";
import type { Crun } from "./crun.ts";

export interface AgentContext {
  readonly paths: AgentPaths;
  readonly crun: Crun;
  readonly reaper: ChildReaper;
  /** Mount point of cgroup version 2; undefined when containers are run without cgroups. */
  readonly cgroupRoot: string | undefined;
  /** The agent's own, which a container gets that asks for none. */
  readonly openFilesHardLimit: number;
  readonly log: Log;
}
