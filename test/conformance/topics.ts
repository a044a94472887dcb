/** Every topic of the suite, in the order they are performed. */
import type { Topic } from "./case.ts";
import { CAPABILITIES } from "./cases/capabilities.ts";
import { CGROUPS } from "./cases/cgroups.ts";
import { CONFIGURATION } from "./cases/configuration.ts";
import { DEVICES } from "./cases/devices.ts";
import { EXEC } from "./cases/exec.ts";
import { FEATURE_LISTS } from "./cases/features.ts";
import { HOOKS } from "./cases/hooks.ts";
import { LIFECYCLE } from "./cases/lifecycle.ts";
import { MOUNTS } from "./cases/mounts.ts";
import { NAMESPACES } from "./cases/namespaces.ts";
import { PATHS } from "./cases/paths.ts";
import { PROCESS } from "./cases/process.ts";
import { REFUSALS } from "./cases/refusals.ts";
import { SECCOMP } from "./cases/seccomp.ts";
import { UPDATES } from "./cases/updates.ts";

export const TOPICS: readonly Topic[] = [
  LIFECYCLE,
  CONFIGURATION,
  PROCESS,
  CAPABILITIES,
  MOUNTS,
  PATHS,
  NAMESPACES,
  DEVICES,
  CGROUPS,
  UPDATES,
  SECCOMP,
  HOOKS,
  EXEC,
  FEATURE_LISTS,
  REFUSALS,
];
