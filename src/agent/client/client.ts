/** The host's side of the agent channel: typed calls over QEMU's end of the virtio-serial port. */
import { HearthError, toHearthError } from "../../errors.ts";
import { AGENT_CONNECT_ATTEMPTS_MAX, AGENT_GREETING_TIMEOUT_MS, AGENT_RECONNECT_PAUSE_MS } from "../../limits.ts";
import { type AgentCalls, agentCalls, type HealthCalls, healthCalls } from "../../rpc/protocols.ts";
import { TtrpcClient } from "../../rpc/ttrpc/client.ts";
import type { ByteStream } from "../../sys/byte-stream.ts";
import { connectUnix } from "../../sys/unix-socket.ts";
import { type DeadlineOptions, sleep } from "../../util/wait.ts";

/** Source: HealthCheckResponse.ServingStatus in proto/health.proto. */
const SERVING = 1;

/** One connection: QEMU's socket takes a single client, and ttRPC carries every call on it. */
export interface AgentClient extends AsyncDisposable {
  readonly agent: AgentCalls;
  readonly health: HealthCalls;
  /** Resolves with the cause when no further call is possible; never rejects. */
  readonly closed: Promise<HearthError>;
  /** Idempotent. Pending calls fail. */
  close(): void;
}

/**
 * Connects to the port's socket and resolves once the agent has answered. The guest learns of a change of clients by a
 * hang-up of its port. One that was too quick for it, or happened while it was paused, it takes for the same client:
 * the greeting then fails or gets lost in the rest of the old client's last call, and a slower reconnect mends that.
 */
export async function connectAgent(socketPath: string, options: DeadlineOptions = {}): Promise<AgentClient> {
  const { signal, timeoutMs } = options;
  const deadline = timeoutMs === undefined ? Number.POSITIVE_INFINITY : performance.now() + timeoutMs;
  for (let attempt = 1; ; attempt++) {
    const stream = await connectUnix(socketPath, options);
    const client = agentClient(stream);
    try {
      const greetingMs = Math.min(AGENT_GREETING_TIMEOUT_MS * attempt, deadline - performance.now());
      const { status } = await client.health.check({}, { signal, timeoutMs: Math.max(greetingMs, 1) });
      if (status === SERVING) return client;
      throw new HearthError("unavailable", "the agent does not serve");
    } catch (thrown) {
      await client[Symbol.asyncDispose]();
      signal?.throwIfAborted();
      if (attempt >= AGENT_CONNECT_ATTEMPTS_MAX || performance.now() >= deadline) {
        throw toHearthError(thrown, `greet agent on ${socketPath}`);
      }
    }
    await sleep(AGENT_RECONNECT_PAUSE_MS, signal);
  }
}

/** Typed calls over a stream that it owns from now on. */
export function agentClient(stream: ByteStream): AgentClient {
  const client = new TtrpcClient(stream);
  return {
    agent: agentCalls(client),
    health: healthCalls(client),
    closed: client.closed,
    close: () => client.close(),
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  };
}
