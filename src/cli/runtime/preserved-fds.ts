/** The descriptors beside its standard streams that the caller wants the process to have. */
import { HearthError } from "../../errors.ts";
import { PRESERVED_FDS_MAX } from "../../limits.ts";
import { stringifySpec } from "../../oci/spec.ts";
import { type CarriedFd, type FdUse, streamUse } from "../../sys/carried-fd.ts";
import { asFd, OwnedFd } from "../../sys/fd.ts";
import { UsageError } from "../usage-error.ts";
import type { Bundle } from "./bundle.ts";
import type { RuntimeContext } from "./context.ts";

export const PRESERVE_FDS_FLAG = {
  type: "string",
  value: "N",
  help: "give the process N more descriptors, from 3 on: pipes, stream sockets, terminals, and files as streams",
} as const;

/** Source: runc, and sd_listen_fds(3). */
const FIRST = 3;

export interface PreservedFds {
  /** What the process can do with its descriptors 3, 4, … They have the same numbers here. */
  readonly uses: readonly FdUse[];
  /** So many of them, the first, came by systemd's protocol. */
  readonly activated: number;
}

/**
 * Looks at what there is: as nothing is opened in between, ask before anything else. `activation`: what systemd's protocol
 * passes comes first, as for runc. Fails for a descriptor that is not open or cannot be carried as a stream, naming it.
 */
export function preservedFds(
  context: RuntimeContext,
  flag: string | undefined,
  { activation }: { readonly activation: boolean },
): PreservedFds {
  const activated = activation ? activatedFds() : 0;
  const count = activated + flagCount(flag);
  if (count > PRESERVED_FDS_MAX) {
    throw new HearthError("invalid-argument", `preserve ${count} file descriptors: at most ${PRESERVED_FDS_MAX}`);
  }
  const uses = Array.from({ length: count }, (_, index) => {
    const number = FIRST + index;
    // The log took a number that the caller had left free.
    const use = number === context.logFd ? "not open" : streamUse(asFd(number));
    if (typeof use !== "string") return use;
    const code = use === "not open" ? "invalid-argument" : "unimplemented";
    throw new HearthError(code, `preserve file descriptor ${number}: it is ${use}`);
  });
  return { uses, activated };
}

/** Meant for another process, they are none of ours. Source: sd_listen_fds(3). */
function activatedFds(): number {
  const { LISTEN_PID: pid, LISTEN_FDS: count = "" } = process.env;
  return pid === String(process.pid) && /^\d{1,9}$/.test(count) ? Number(count) : 0;
}

function flagCount(flag: string | undefined): number {
  if (flag === undefined) return 0;
  if (/^\d{1,9}$/.test(flag)) return Number(flag);
  throw new UsageError(`invalid value ${JSON.stringify(flag)} for flag --preserve-fds: must be a number`);
}

/** Takes them over: whoever has called us no longer finds them open here. */
export function takePreservedFds({ uses }: PreservedFds): CarriedFd[] {
  return uses.map((use, index) => ({ use, fd: new OwnedFd(asFd(FIRST + index)) }));
}

/** The bundle's configuration, whose process hears of what systemd's protocol passed as runc's does. */
export function configWithActivation({ spec, configJson }: Bundle, { activated }: PreservedFds): Uint8Array {
  if (activated === 0) return configJson;
  const env = [...(spec.process.env ?? []), `LISTEN_FDS=${activated}`, "LISTEN_PID=1"];
  return new TextEncoder().encode(stringifySpec({ ...spec, process: { ...spec.process, env } }));
}
