/** `run`: create, start, and unless detached wait for the end, pass on its exit status and delete. */
import { HearthError } from "../../errors.ts";
import { type LockedContainer, lockContainer } from "../../oci/container-store.ts";
import { takeStandardFd } from "../../shim/standard-fds.ts";
import { exitCodeOf } from "../../sys/process.ts";
import { parseSignal } from "../../sys/signals.ts";
import { defineRuntimeCommand, onlyContainerId } from "./command.ts";
import type { RuntimeContext } from "./context.ts";
import { type CreatedContainer, createContainer } from "./create-container.ts";
import { CREATE_FLAGS } from "./create-flags.ts";
import { deleteContainer } from "./delete.ts";
import { preservedFds } from "./preserved-fds.ts";
import { abortable } from "./signals.ts";
import { runPoststartHooks, startContainer } from "./start.ts";
import { lockTimeoutMs } from "./with-sandbox.ts";

export const command = defineRuntimeCommand({
  flags: {
    ...CREATE_FLAGS,
    detach: { type: "boolean", short: "d", help: "do not wait for the end of the container" },
    keep: { type: "boolean", help: "do not delete the container after its end" },
    "no-subreaper": { type: "boolean", help: "accepted: the container's processes are in the VM" },
  },
  positionals: "<container-id>",
  failurePrefix: "run failed",
  async run(context, flags, positionals) {
    const id = onlyContainerId(positionals);
    const preserved = preservedFds(context, flags["preserve-fds"], { activation: true });
    using foreground = new DisposableStack();
    const created = await abortable(async (signal) => {
      const container = await createContainer(context, {
        id,
        bundle: flags.bundle ?? ".",
        pidFile: flags["pid-file"],
        consoleSocket: flags["console-socket"],
        pidfdSocket: flags["pidfd-socket"],
        detached: flags.detach,
        preserved,
        signal,
      });
      // Here, so that there is no moment in which a signal would end us and leave the container behind.
      if (!flags.detach) foreground.use(forwardSignals(container));
      return container;
    });
    foreground.use(created.terminalMode);
    if (!flags.detach) created.shim.letGo();
    await startOrDelete(context, created);
    if (flags.detach) return 0;
    const exitCode = await waitInForeground(created);
    if (!flags.keep) await deleteStopped(context, id);
    return exitCode;
  },
});

/** Frees the container's lock: while it runs, others may pause or kill it. */
async function startOrDelete(context: RuntimeContext, { container, shim }: CreatedContainer): Promise<void> {
  await using locked = container;
  try {
    await startContainer(context, locked);
    await runPoststartHooks(locked.record);
  } catch (thrown) {
    shim.letGo();
    await deleteContainer(context, locked);
    throw thrown;
  }
}

const FORWARDED_SIGNALS = ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const;

/** Passes signals on to the shim, which passes them on to the process; until disposed. */
function forwardSignals({ shim }: CreatedContainer): DisposableStack {
  const stack = new DisposableStack();
  for (const name of FORWARDED_SIGNALS) {
    const handler = (): void => shim.child.kill(parseSignal(name));
    process.on(name, handler);
    stack.defer(() => process.off(name, handler));
  }
  return stack;
}

/** Until the shim has ended as the process has. */
async function waitInForeground({ shim }: CreatedContainer): Promise<number> {
  // The streams are the shim's: as long as we held them, nobody would see them closed.
  takeStandardFd(0)?.close();
  takeStandardFd(1)?.close();
  return exitCodeOf(await shim.child.exited);
}

/** Somebody else may have deleted it meanwhile, which is as good. */
async function deleteStopped(context: RuntimeContext, id: string): Promise<void> {
  let container: LockedContainer;
  try {
    container = await lockContainer(await context.root(), id, await lockTimeoutMs(context));
  } catch (thrown) {
    if (thrown instanceof HearthError && thrown.code === "not-found") return;
    throw thrown;
  }
  await using locked = container;
  await deleteContainer(context, locked);
}
