/**
 * The ttRPC protocols by their tables. What speaks them must not import the generated descriptors: loading those costs a
 * process 15 ms and 6 MiB, and there is one process for each VM and each container.
 */
import type { AgentService, StatsContainerResponse } from "../gen/agent_pb.ts";
import { AgentServiceTable, agentMessages } from "../gen/agent_table.ts";
import type { Health } from "../gen/health_pb.ts";
import { HealthTable, healthMessages } from "../gen/health_table.ts";
import { ociMessages } from "../gen/oci_table.ts";
import type { SandboxService } from "../gen/sandbox_pb.ts";
import { SandboxServiceTable, sandboxMessages } from "../gen/sandbox_table.ts";
import { typesMessages } from "../gen/types_table.ts";
import type { ServedService } from "./service.ts";
import { TableCodec } from "./table-codec.ts";
import { createTableClient, registerTable } from "./table-service.ts";
import type { ClientOf, TtrpcClient } from "./ttrpc/client.ts";
import type { CallContext, HandlersOf } from "./ttrpc/service.ts";

const agentCodec = new TableCodec(agentMessages, healthMessages, ociMessages, typesMessages);
const sandboxCodec = new TableCodec(sandboxMessages);

export type AgentCalls = ClientOf<typeof AgentService>;
export type HealthCalls = ClientOf<typeof Health>;
export type SandboxCalls = ClientOf<typeof SandboxService>;

/** The clients keep the ownership of the stream. */
export function agentCalls(client: TtrpcClient): AgentCalls {
  return createTableClient(AgentServiceTable, agentCodec, client);
}

export function healthCalls(client: TtrpcClient): HealthCalls {
  return createTableClient(HealthTable, agentCodec, client);
}

export function sandboxCalls(client: TtrpcClient): SandboxCalls {
  return createTableClient(SandboxServiceTable, sandboxCodec, client);
}

export function registerSandbox(handlers: HandlersOf<typeof SandboxService>): ServedService<CallContext> {
  return registerTable(SandboxServiceTable, sandboxCodec, handlers);
}

const STATS = "grpc.StatsContainerResponse";

/** The agent's statistics travel through the sandbox process as bytes. */
export function encodeStats(stats: StatsContainerResponse): Uint8Array {
  return agentCodec.encode(STATS, stats);
}

/** Bytes that are none are "invalid-argument". */
export function decodeStats(bytes: Uint8Array): StatsContainerResponse {
  return agentCodec.decode(STATS, bytes) as unknown as StatsContainerResponse;
}
