/** The agent as a program: `hearth-agent` in the guest. Importing this module starts nothing. */
import { readFileSync } from "node:fs";
import { describeError } from "../../errors.ts";
import { createLog, type Log } from "../../log.ts";
import { AGENT_PORT_NAME, AGENT_VSOCK_PORT, VSOCK_KERNEL_PARAM } from "../../paths.ts";
import { VsockListener } from "../../sys/vsock.ts";
import { createAgent } from "./agent.ts";
import { findPort, servePort } from "./port.ts";
import { makeTimeNamespace, TIME_NAMESPACE_COMMAND } from "./time-namespace.ts";
import { serveVsock } from "./vsock.ts";

export interface RunAgentOptions {
  readonly log?: Log;
  /** Ends the service. */
  readonly signal?: AbortSignal;
}

/** Serves the agent's port, serial or vsock, until `signal` aborts or it is lost; rejects then. The log goes to the console. */
export async function runAgent(options: RunAgentOptions = {}): Promise<never> {
  const log = options.log ?? createLog({ level: "info", format: "text" });
  const signal = options.signal ?? new AbortController().signal;
  surviveOwnFaults(log);
  await using agent = createAgent({ log, oomProtection: true });
  const path = await findPort(AGENT_PORT_NAME, signal);
  const startMs = Math.round(process.uptime() * 1000);
  if (isVsockWanted()) {
    using listener = VsockListener.listen(AGENT_VSOCK_PORT);
    log.info("agent ready", { port: `vsock ${AGENT_VSOCK_PORT}`, startMs });
    await serveVsock(listener, path, agent.services, log, signal);
  } else {
    log.info("agent ready", { port: path, startMs });
    await servePort(path, agent.services, log, signal);
  }
  throw signal.reason;
}

function isVsockWanted(): boolean {
  return readFileSync("/proc/cmdline", "utf8").trim().split(/\s+/).includes(VSOCK_KERNEL_PARAM);
}

/** With the agent the VM would end, and every container in it: a call that fails unheard is the lesser evil. */
function surviveOwnFaults(log: Log): void {
  const report = (thrown: unknown): void => {
    log.error("agent fault", { error: thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown) });
  };
  process.on("unhandledRejection", report);
  process.on("uncaughtException", report);
}

if (import.meta.main) {
  const [command, ...args] = process.argv.slice(2);
  if (command === TIME_NAMESPACE_COMMAND) makeTimeNamespace(args);
  runAgent().catch((thrown: unknown) => {
    createLog({ level: "info", format: "text" }).error("agent ended", { error: describeError(thrown) });
    process.exitCode = 1;
  });
}
