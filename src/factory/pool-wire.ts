/** What goes in the JSON fields of the pool protocol, written by the server and checked by the client. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import * as v from "valibot";
import { HearthError, toHearthError } from "../errors.ts";
import type { GrpcVM, GrpcVMConfigSchema, GrpcVMSchema } from "../gen/cache_pb.ts";
import { assertSocketPath } from "../sys/unix-socket.ts";
import { identityDigest, identityOf, type VmConfig, type VmIdentity } from "../vm/vm-config.ts";
import { parseVmRecord } from "../vm/vm-record.ts";
import type { BaseVm } from "./base-factory.ts";
import type { IdleVmFacts, VmLease } from "./idle-vm.ts";

/** gRPC metadata in which a client says what it needs: the hex digest of its identity. */
export const IDENTITY_METADATA_KEY = "hearth-identity";

const UNIX_URL_PREFIX = "unix://";
const encoder = new TextEncoder();
const decoder = new TextDecoder();

const PoolConfigSchema = v.object({
  identity: v.record(v.string(), v.union([v.string(), v.number(), v.boolean(), v.array(v.string())])),
  digest: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
});
const TokenSchema = v.object({ token: v.pipe(v.string(), v.regex(/^[0-9a-f]{32,}$/)) });

export interface PoolConfig {
  readonly identity: VmIdentity;
  /** Hex SHA-256 of the identity. */
  readonly digest: string;
}

export function encodePoolConfig(config: VmConfig): MessageInitShape<typeof GrpcVMConfigSchema> {
  const data: PoolConfig = { identity: identityOf(config), digest: identityDigest(config) };
  return { Data: encoder.encode(JSON.stringify(data)), AgentConfig: encoder.encode("{}") };
}

/** Fails with "failed-precondition" when it is not what a server of ours sends: a pool of another kind. */
export function decodePoolConfig(data: Uint8Array): PoolConfig {
  let json: unknown;
  try {
    json = JSON.parse(decoder.decode(data));
  } catch (cause) {
    throw new HearthError("failed-precondition", "read pool configuration: not JSON", { cause });
  }
  const result = v.safeParse(PoolConfigSchema, json);
  if (!result.success) throw new HearthError("failed-precondition", "read pool configuration: not a pool of ours");
  return result.output;
}

/** Names of the fields in which two identities differ, sorted. */
export function identityDifference(ours: VmIdentity, theirs: VmIdentity): string[] {
  const names = new Set([...Object.keys(ours), ...Object.keys(theirs)]);
  return [...names].filter((name) => JSON.stringify(ours[name]) !== JSON.stringify(theirs[name])).sort();
}

/** The hand-over: the VM's record with the token that allows to adopt it. */
export function encodePooledVm(facts: IdleVmFacts, lease: VmLease): MessageInitShape<typeof GrpcVMSchema> {
  const record = JSON.parse(decoder.decode(lease.recordJson)) as object;
  return {
    id: facts.vmId,
    hypervisor: encoder.encode(JSON.stringify({ ...record, token: lease.token })),
    proxyPid: BigInt(facts.sandbox.pid),
    proxyURL: `${UNIX_URL_PREFIX}${facts.socket}`,
    cpu: lease.vcpus,
    memory: lease.memoryMib,
    cpuDelta: 0,
  };
}

/** Fails with "internal" when the VM is not described as a server of ours does, or is of another identity than `digest`. */
export function decodePooledVm(vm: GrpcVM, digest: string): BaseVm {
  try {
    const text = decoder.decode(vm.hypervisor);
    const record = parseVmRecord(text, `of pooled vm ${vm.id}`);
    const { token } = v.parse(TokenSchema, JSON.parse(text));
    if (record.vmId !== vm.id || BigInt(record.sandbox.pid) !== vm.proxyPid) throw new Error("record of another vm");
    if (record.identity !== digest) throw new Error("vm of another identity");
    if (!vm.proxyURL.startsWith(`${UNIX_URL_PREFIX}/`)) throw new Error(`proxyURL ${JSON.stringify(vm.proxyURL)}`);
    const sandboxSocket = vm.proxyURL.slice(UNIX_URL_PREFIX.length);
    assertSocketPath(sandboxSocket);
    if (vm.cpu < 1 || vm.memory < 1) throw new Error("vm without vcpus or memory");
    return {
      vmId: vm.id,
      sandbox: record.sandbox,
      sandboxSocket,
      token,
      vcpus: vm.cpu,
      memoryMib: vm.memory,
      source: "pool",
    };
  } catch (thrown) {
    const { message } = toHearthError(thrown, "read pooled vm");
    throw new HearthError("internal", message, { cause: thrown });
  }
}
