/** The host's side of the agent channel: typed calls over QEMU's end of the virtio-serial port. */
import { AgentService } from "../../gen/agent_pb.ts";
import { Health } from "../../gen/health_pb.ts";
import { type ClientOf, createTtrpcClient, TtrpcClient } from "../../rpc/ttrpc/client.ts";
import { connectUnix } from "../../sys/unix-socket.ts";
import type { DeadlineOptions } from "../../util/wait.ts";

/** One connection: QEMU's socket takes a single client, and ttRPC carries every call on it. */
export interface AgentClient {
  readonly agent: ClientOf<typeof AgentService>;
  readonly health: ClientOf<typeof Health>;
  /** Idempotent. Pending calls fail. */
  close(): void;
}

/** Connects to the port's socket; answers come once the agent has opened the other end. */
export async function connectAgent(socketPath: string, options: DeadlineOptions): Promise<AgentClient> {
  const stream = await connectUnix(socketPath, options);
  const client = new TtrpcClient(stream);
  return {
    agent: createTtrpcClient(AgentService, client),
    health: createTtrpcClient(Health, client),
    close: () => stream.close(),
  };
}
