/** A createContainer hook that failed in the guest, in the words of the hooks that run on the host. */
import { HearthError } from "../errors.ts";
import type { Hook } from "../oci/spec.ts";

/** crun names the file that was carried into the guest (see guest-spec.ts), which nobody knows; anything else is left as it is. */
export function namedHookFailure(thrown: unknown, hooks: readonly Hook[] = []): unknown {
  if (!(thrown instanceof HearthError)) return thrown;
  // Source: crun 1.8, do_hooks.
  const [, index, status] =
    /error executing hook `[^`]*\/hooks\/(\d+)` \(exit code: (\d+)\)/.exec(thrown.message) ?? [];
  const hook = index === undefined ? undefined : hooks[Number(index)];
  if (hook === undefined) return thrown;
  const message = `error running createContainer hook #${index}: ${hook.path}: exit status ${status}`;
  return new HearthError("failed-precondition", message);
}
