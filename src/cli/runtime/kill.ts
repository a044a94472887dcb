/** `kill`: sends a signal to the init process of a container, or to every process in it. */
import { HearthError } from "../../errors.ts";
import { canSignal, statusOf } from "../../oci/container-record.ts";
import { readContainer } from "../../oci/container-store.ts";
import { defineRuntimeCommand } from "./command.ts";

export const command = defineRuntimeCommand({
  flags: {
    all: { type: "boolean", short: "a", help: "send the signal to every process of the container" },
  },
  positionals: "<container-id> [signal]",
  async run(context, flags, positionals) {
    const [id, name = "SIGTERM", ...more] = positionals;
    if (id === undefined) throw new HearthError("invalid-argument", "container id is missing");
    if (more.length > 0) {
      throw new HearthError("invalid-argument", `at most 2 arguments are wanted, got ${positionals.length}`);
    }
    const record = readContainer(await context.root(), id);
    const signal = await signalNumber(name);
    const notRunning = (cause?: unknown): HearthError =>
      new HearthError("failed-precondition", `container not running: ${id}`, { cause, facts: { id } });
    const status = statusOf(record);
    if (!canSignal(status)) {
      // Nobody is left, which is what who kills all of them wants. As runc.
      if (flags.all && status === "stopped") return;
      throw notRunning();
    }
    if (signal === 0) return;
    const timeoutMs = (await context.config()).runtime.request_timeout_ms;
    const { connectSandbox, isSandboxGone } = await import("../../rpc/sandbox-connection.ts");
    try {
      await using connection = await connectSandbox(record.vm.socket, { timeoutMs });
      await connection.sandbox.signalProcess({ containerId: id, execId: "", signal, all: flags.all }, { timeoutMs });
    } catch (thrown) {
      const ended = thrown instanceof HearthError && ["not-found", "failed-precondition"].includes(thrown.code);
      if (!ended && !isSandboxGone(thrown)) throw thrown;
      if (!flags.all) throw notRunning(thrown);
    }
  },
});

/** 0 asks only whether the container could be signalled. */
async function signalNumber(name: string): Promise<number> {
  if (name === "0") return 0;
  const { parseSignal } = await import("../../sys/signals.ts");
  return parseSignal(name);
}
