/** CacheService on the wire: what clients of the pool are answered. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { HearthError } from "../errors.ts";
import type { SlotStatus } from "../factory/cache-slot.ts";
import type { IdleVmFacts } from "../factory/idle-vm.ts";
import { decodeNeed, encodePoolConfig, encodePooledVm } from "../factory/pool-wire.ts";
import type { VmPool } from "../factory/vm-pool.ts";
import {
  CacheService,
  type GrpcCountersSchema,
  type GrpcSlotStatusSchema,
  type GrpcStatusSchema,
  type GrpcVMSchema,
  type GrpcVMStatusSchema,
} from "../gen/cache_pb.ts";
import { type GrpcCallContext, registerGrpcService } from "../rpc/grpc.ts";
import type { RegisteredService } from "../rpc/service.ts";
import { COMMIT, VERSION } from "../version.ts";
import { baseIdentityDigest, identityDigest } from "../vm/vm-config.ts";
import type { VmRecord } from "../vm/vm-record.ts";
import { livingVms } from "./living-vms.ts";

export interface CacheServiceParts {
  readonly pool: VmPool;
  readonly runDir: string;
  readonly startedAtMs: number;
  /** Idle VMs taken over at the start. */
  readonly adopted: number;
  /** Why the configuration that is there is not the one in use. */
  readonly configError: () => string | undefined;
  /** Begins the end of the server; returns at once. */
  readonly quit: () => void;
}

export function cacheService(parts: CacheServiceParts): RegisteredService<GrpcCallContext> {
  const { pool } = parts;
  return registerGrpcService(CacheService, {
    config: (_request, context) => {
      const { baseIdentity, size } = decodeNeed(context.metadata);
      if (isMismatch(pool, baseIdentity)) pool.countMiss("mismatch");
      return encodePoolConfig(pool.configFor(size));
    },
    getBaseVM: (_request, context) => claim(pool, context),
    status: () => poolStatus(parts),
    quit: () => {
      parts.quit();
      return {};
    },
  });
}

/** A client that says nothing of what it needs takes what there is, as Kata's does. */
function isMismatch(pool: VmPool, wanted: string | undefined): boolean {
  return wanted !== undefined && wanted !== baseIdentityDigest(pool.configFor());
}

async function claim(pool: VmPool, context: GrpcCallContext): Promise<MessageInitShape<typeof GrpcVMSchema>> {
  const { baseIdentity, size } = decodeNeed(context.metadata);
  if (isMismatch(pool, baseIdentity)) {
    pool.countMiss("mismatch");
    throw new HearthError("failed-precondition", "claim pooled vm: the pool's vms are of another identity");
  }
  const vm = await pool.take(context.signal, size);
  try {
    return encodePooledVm(vm.facts, vm.lease);
  } catch (thrown) {
    await vm.revoke();
    throw thrown;
  }
}

function poolStatus(parts: CacheServiceParts): MessageInitShape<typeof GrpcStatusSchema> {
  const now = Date.now();
  const { slots, waiting, shapes, memoryMib, settings } = parts.pool;
  const idle = slots.flatMap(({ state, vm }) => (vm !== undefined && isReady(state) ? [idleStatus(vm, now)] : []));
  return {
    pid: BigInt(process.pid),
    vmstatus: idle,
    handedOut: livingVms(parts.runDir, ["leased", "adopted"]).map((record) => handedOutStatus(record, now)),
    slots: slots.map((slot) => slotMessage(slot, now)),
    waiting,
    identity: identityDigest(parts.pool.configFor()),
    startedAtMs: BigInt(parts.startedAtMs),
    counters: countersMessage(parts),
    version: `${VERSION} ${COMMIT}`,
    shapes: shapes.map(({ memoryMib: memory, ...shape }) => ({ ...shape, memory })),
    memoryMib: BigInt(memoryMib),
    memoryMaxMib: BigInt(settings.memoryMaxMib),
    configError: parts.configError() ?? "",
  };
}

function isReady(state: SlotStatus["state"]): boolean {
  return state === "idle" || state === "checking";
}

function idleStatus(vm: IdleVmFacts, now: number): MessageInitShape<typeof GrpcVMStatusSchema> {
  return {
    pid: BigInt(vm.qemuPid),
    cpu: vm.vcpus,
    memory: vm.memoryMib,
    id: vm.vmId,
    state: "idle",
    ageMs: BigInt(Math.max(0, now - vm.readyAtMs)),
    sandboxPid: BigInt(vm.sandbox.pid),
  };
}

function handedOutStatus(record: VmRecord, now: number): MessageInitShape<typeof GrpcVMStatusSchema> {
  return {
    pid: BigInt(record.processes[0]?.pid ?? 0),
    cpu: record.vcpus,
    memory: record.memoryMib,
    id: record.vmId,
    state: record.state,
    ageMs: BigInt(Math.max(0, now - record.readyAtMs)),
    sandboxPid: BigInt(record.sandbox.pid),
  };
}

function slotMessage(slot: SlotStatus, now: number): MessageInitShape<typeof GrpcSlotStatusSchema> {
  return {
    shape: slot.shape,
    index: slot.index,
    state: slot.state,
    id: slot.vm?.vmId ?? slot.bootingVmId ?? "",
    step: slot.step ?? "",
    failures: slot.failures,
    lastError: slot.lastError ?? "",
    retryInMs: slot.retryAtMs === undefined ? 0 : Math.max(0, slot.retryAtMs - now),
  };
}

function countersMessage({ pool, adopted }: CacheServiceParts): MessageInitShape<typeof GrpcCountersSchema> {
  const { hits, misses, boots, bootFailures, losses, retired, drained, suspensions } = pool.counters;
  const total = Object.values(misses).reduce((sum, count) => sum + count, 0);
  return {
    hits: BigInt(hits),
    misses: BigInt(total),
    missesByReason: Object.fromEntries(Object.entries(misses).map(([reason, count]) => [reason, BigInt(count)])),
    boots: BigInt(boots),
    bootFailures: BigInt(bootFailures),
    losses: BigInt(losses),
    adopted: BigInt(adopted),
    retired: BigInt(retired),
    drained: BigInt(drained),
    suspensions: BigInt(suspensions),
  };
}
