/** The host's side of the agent channel: typed calls over QEMU's end of the virtio-serial port, or over vsock. */
import { HearthError, toHearthError } from "../../errors.ts";
import {
  AGENT_CONNECT_ATTEMPTS_MAX,
  AGENT_GREETING_TIMEOUT_MS,
  AGENT_RECONNECT_PAUSE_MS,
  VSOCK_CONNECT_ATTEMPTS_MAX,
  VSOCK_CONNECT_TIMEOUT_MS,
  VSOCK_GREETING_TIMEOUT_MS,
} from "../../limits.ts";
import { AGENT_VSOCK_PORT } from "../../paths.ts";
import { type AgentCalls, agentCalls, type HealthCalls, healthCalls } from "../../rpc/protocols.ts";
import { TtrpcClient } from "../../rpc/ttrpc/client.ts";
import type { ByteStream } from "../../sys/byte-stream.ts";
import { connectUnix } from "../../sys/unix-socket.ts";
import { connectVsock } from "../../sys/vsock.ts";
import { type DeadlineOptions, sleep } from "../../util/wait.ts";

/** Source: HealthCheckResponse.ServingStatus in proto/health.proto. */
const SERVING = 1;

/** Where a VM's agent is reached. */
export type AgentAddress =
  | { readonly transport: "virtio-serial"; readonly socket: string }
  | { readonly transport: "vsock"; readonly cid: number };

/** One connection: QEMU's socket takes a single client, as does the agent, and ttRPC carries every call on it. */
export interface AgentClient extends AsyncDisposable {
  readonly agent: AgentCalls;
  readonly health: HealthCalls;
  /** Resolves with the cause when no further call is possible; never rejects. */
  readonly closed: Promise<HearthError>;
  /** Idempotent. Pending calls fail. */
  close(): void;
}

export interface ConnectOptions extends DeadlineOptions {
  /**
   * Makes one call that the agent shall get together with the greeting. It is called for every attempt; what it called in
   * those that failed may have been done or not.
   */
  readonly alongside?: (client: AgentClient) => void;
}

/** The greeting, and one beside it. */
const CALLS_PER_ATTEMPT_MAX = 2;

/**
 * Connects and resolves once the agent has answered. Over virtio-serial the guest learns of a change of clients by a
 * hang-up of its port. One that was too quick for it, or happened while it was paused, it takes for the same client:
 * the greeting then fails or gets lost in the rest of the old client's last call, and a slower reconnect mends that.
 * Over vsock a clone has its template's CID until it has handled the device's event, and then resets its connections.
 */
export async function connectAgent(address: AgentAddress, options: ConnectOptions = {}): Promise<AgentClient> {
  const { signal, timeoutMs, alongside } = options;
  const attempts = address.transport === "vsock" ? VSOCK_CONNECT_ATTEMPTS_MAX : AGENT_CONNECT_ATTEMPTS_MAX;
  const deadline = timeoutMs === undefined ? Number.POSITIVE_INFINITY : performance.now() + timeoutMs;
  for (let attempt = 1; ; attempt++) {
    const startedAt = performance.now();
    try {
      return await greetAgent(address, attempt, deadline, signal, alongside);
    } catch (thrown) {
      signal?.throwIfAborted();
      if (attempt >= attempts || performance.now() >= deadline) {
        throw toHearthError(thrown, `greet agent on ${nameOf(address)}`);
      }
    }
    await sleep(pauseAfterMs(address.transport, attempt, performance.now() - startedAt), signal);
  }
}

/**
 * Milliseconds to wait after a failed attempt that took `spentMs`. Over vsock one that was refused at once gives the guest as
 * much time as one that was never answered: a clone refuses until it knows its own address.
 */
export function pauseAfterMs(transport: AgentAddress["transport"], attempt: number, spentMs: number): number {
  const wholeMs = transport === "vsock" ? VSOCK_CONNECT_TIMEOUT_MS * 2 ** (attempt - 1) : 0;
  return Math.max(AGENT_RECONNECT_PAUSE_MS, wholeMs - spentMs);
}

/** One attempt; each has twice the time of the one before. */
async function greetAgent(
  address: AgentAddress,
  attempt: number,
  deadline: number,
  signal: AbortSignal | undefined,
  alongside: ConnectOptions["alongside"],
): Promise<AgentClient> {
  const within = (firstMs: number) => ({
    signal,
    timeoutMs: Math.max(Math.min(firstMs * 2 ** (attempt - 1), deadline - performance.now()), 1),
  });
  const isVsock = address.transport === "vsock";
  const stream = isVsock
    ? await connectVsock({ cid: address.cid, port: AGENT_VSOCK_PORT }, within(VSOCK_CONNECT_TIMEOUT_MS))
    : await connectUnix(address.socket, within(AGENT_GREETING_TIMEOUT_MS));
  // Every attempt has ids of its own, the odd ones: a slow guest may still answer the one before.
  const client = agentClient(stream, 1 + 2 * CALLS_PER_ATTEMPT_MAX * (attempt - 1));
  try {
    const greeting = client.health.check({}, within(isVsock ? VSOCK_GREETING_TIMEOUT_MS : AGENT_GREETING_TIMEOUT_MS));
    alongside?.(client);
    const { status } = await greeting;
    if (status === SERVING) return client;
    throw new HearthError("unavailable", "the agent does not serve");
  } catch (thrown) {
    await client[Symbol.asyncDispose]();
    throw thrown;
  }
}

function nameOf(address: AgentAddress): string {
  return address.transport === "vsock" ? `vsock CID ${address.cid}` : address.socket;
}

/** Typed calls over a stream that it owns from now on; `firstStreamId` as TtrpcClient's. */
export function agentClient(stream: ByteStream, firstStreamId = 1): AgentClient {
  const client = new TtrpcClient(stream, firstStreamId);
  return {
    agent: agentCalls(client),
    health: healthCalls(client),
    closed: client.closed,
    close: () => client.close(),
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  };
}
