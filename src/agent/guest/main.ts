/** The agent as a program: `hearth-agent` in the guest. Importing this module starts nothing. */
import { describeError } from "../../errors.ts";
import { createLog, type Log } from "../../log.ts";
import { AGENT_PORT_NAME } from "../../paths.ts";
import { createAgent } from "./agent.ts";
import { findPort, servePort } from "./port.ts";

export interface RunAgentOptions {
  readonly log?: Log;
  /** Ends the service. */
  readonly signal?: AbortSignal;
}

/** Serves the agent's port until `signal` aborts or the port is lost; rejects then. The log goes to the console. */
export async function runAgent(options: RunAgentOptions = {}): Promise<never> {
  const log = options.log ?? createLog({ level: "info", format: "text" });
  const signal = options.signal ?? new AbortController().signal;
  surviveOwnFaults(log);
  await using agent = createAgent({ log, oomProtection: true });
  const path = await findPort(AGENT_PORT_NAME, signal);
  log.info("agent ready", { port: path, startMs: Math.round(process.uptime() * 1000) });
  await servePort(path, agent.services, log, signal);
  throw signal.reason;
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
  runAgent().catch((thrown: unknown) => {
    createLog({ level: "info", format: "text" }).error("agent ended", { error: describeError(thrown) });
    process.exitCode = 1;
  });
}
