/** What goes in the JSON fields of the pool protocol, written by the server and checked by the client. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import * as v from "valibot";
import { HearthError, toHearthError } from "../errors.ts";
import type { GrpcVM, GrpcVMConfigSchema, GrpcVMSchema } from "../gen/cache_pb.ts";
import { assertSocketPath } from "../sys/unix-socket.ts";
import {
  baseIdentityDigest,
  baseIdentityOf,
  identityDigest,
  identityOf,
  type VmConfig,
  type VmIdentity,
  type VmSize,
} from "../vm/vm-config.ts";
import { parseVmRecord } from "../vm/vm-record.ts";
import type { BaseVm } from "./base-factory.ts";
import type { IdleVmFacts, VmLease } from "./idle-vm.ts";

/** gRPC metadata in which a client says what it needs: the hex digest of its identity without the size, and the size. */
const IDENTITY_KEY = "hearth-identity";
const VCPUS_KEY = "hearth-vcpus";
const MEMORY_KEY = "hearth-memory-mib";

const UNIX_URL_PREFIX = "unix://";
const encoder = new TextEncoder();
const decoder = new TextDecoder();

const digest = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/));
const PoolConfigSchema = v.object({
  identity: v.record(v.string(), v.union([v.string(), v.number(), v.boolean(), v.array(v.string())])),
  digest,
  baseDigest: digest,
});
const TokenSchema = v.object({ token: v.pipe(v.string(), v.regex(/^[0-9a-f]{32,}$/)) });

export interface PoolConfig {
  readonly identity: VmIdentity;
  /** Hex SHA-256 of the identity. */
  readonly digest: string;
  /** The same without the size: what a client compares, since a VM of another size can be grown. */
  readonly baseDigest: string;
}

/** What a client needs, as far as it says so. */
export interface PoolNeed {
  readonly baseIdentity: string | undefined;
  readonly size: VmSize | undefined;
}

export function encodeNeed(config: VmConfig, size: VmSize): Record<string, string> {
  return {
    [IDENTITY_KEY]: baseIdentityDigest(config),
    [VCPUS_KEY]: String(size.vcpus),
    [MEMORY_KEY]: String(size.memoryMib),
  };
}

/** Fails with invalid-argument for a size that is none. */
export function decodeNeed(metadata: Readonly<Record<string, string>>): PoolNeed {
  const [vcpus, memoryMib] = [VCPUS_KEY, MEMORY_KEY].map((key) => count(key, metadata[key]));
  const size =
    vcpus === undefined && memoryMib === undefined ? undefined : { vcpus: vcpus ?? 1, memoryMib: memoryMib ?? 1 };
  return { baseIdentity: metadata[IDENTITY_KEY], size };
}

function count(key: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw new HearthError("invalid-argument", `read metadata ${key}: not a count: ${JSON.stringify(text.slice(0, 20))}`);
}

export function encodePoolConfig(config: VmConfig): MessageInitShape<typeof GrpcVMConfigSchema> {
  const data: PoolConfig = {
    identity: identityOf(config),
    digest: identityDigest(config),
    baseDigest: baseIdentityDigest(config),
  };
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

/** Names of the fields other than the size in which two identities differ, sorted. */
export function identityDifference(our: VmIdentity, their: VmIdentity): string[] {
  const [ours, theirs] = [baseIdentityOf(our), baseIdentityOf(their)];
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
    // vCPUs that were added to what the VM began with: an idle one has had nothing added.
    cpuDelta: 0,
  };
}

/** Fails with "internal" when the VM is not described as a server of ours does, or differs from `config` in more than its size. */
export function decodePooledVm(vm: GrpcVM, config: VmConfig): BaseVm {
  try {
    const text = decoder.decode(vm.hypervisor);
    const record = parseVmRecord(text, `of pooled vm ${vm.id}`);
    const { token } = v.parse(TokenSchema, JSON.parse(text));
    if (record.vmId !== vm.id || BigInt(record.sandbox.pid) !== vm.proxyPid) throw new Error("record of another vm");
    if (record.baseIdentity !== baseIdentityDigest(config)) throw new Error("vm of another identity");
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
