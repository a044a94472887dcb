/** `create`: makes a container from a bundle, up to the point where its process waits for `start`. */
import { defineRuntimeCommand, onlyContainerId } from "./command.ts";
import { createContainer } from "./create-container.ts";
import { CREATE_FLAGS } from "./create-flags.ts";
import { preservedFds } from "./preserved-fds.ts";
import { abortable } from "./signals.ts";

export const command = defineRuntimeCommand({
  flags: CREATE_FLAGS,
  positionals: "<container-id>",
  failurePrefix: "create failed",
  async run(context, flags, positionals) {
    const id = onlyContainerId(positionals);
    const preserved = preservedFds(context, flags["preserve-fds"], { activation: true });
    const { container } = await abortable((signal) =>
      createContainer(context, {
        id,
        bundle: flags.bundle ?? ".",
        pidFile: flags["pid-file"],
        consoleSocket: flags["console-socket"],
        pidfdSocket: flags["pidfd-socket"],
        detached: true,
        preserved,
        signal,
      }),
    );
    await container[Symbol.asyncDispose]();
  },
});
