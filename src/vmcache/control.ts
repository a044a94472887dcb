/** Asking a running pool server: its status, and to quit. */
import { HearthError } from "../errors.ts";
import { CacheService, type GrpcStatus, type GrpcVMStatus } from "../gen/cache_pb.ts";
import { POOL_PROBE_TIMEOUT_MS, POOL_QUIT_TIMEOUT_MS } from "../limits.ts";
import { createGrpcClient, GrpcClient, type GrpcClientOf } from "../rpc/grpc.ts";
import { RemoteError } from "../rpc/status.ts";
import { identifyProcess, type ProcessIdentity, processExit } from "../sys/process-identity.ts";
import { assertSocketPath } from "../sys/unix-socket.ts";

/** What `hearth vmcache status --json` prints; numbers are plain, times in milliseconds. */
export interface PoolStatus {
  readonly pid: number;
  readonly version: string;
  /** Hex digest; empty for a server that is not ours. */
  readonly identity: string;
  readonly startedAtMs: number;
  /** Ready to be handed out. */
  readonly idle: readonly PoolVmStatus[];
  /** In use on this host. */
  readonly handedOut: readonly PoolVmStatus[];
  readonly slots: readonly PoolSlotStatus[];
  readonly waiting: number;
  readonly hits: number;
  readonly misses: number;
  readonly missesByReason: Readonly<Record<string, number>>;
  readonly boots: number;
  readonly bootFailures: number;
  readonly losses: number;
  readonly adopted: number;
  /** Replaced because of their age. */
  readonly retired: number;
  /** Ended because the configuration, or what is on disk, no longer wants them. */
  readonly drained: number;
  /** Times that the host had been asleep. */
  readonly suspensions: number;
  readonly shapes: readonly PoolShapeStatus[];
  /** Of all VMs of the pool, idle and booting. */
  readonly memoryMib: number;
  /** 0: no bound. */
  readonly memoryMaxMib: number;
  /** Why the configuration that is there is not the one in use; empty when it is. */
  readonly configError: string;
}

export interface PoolShapeStatus {
  readonly name: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly number: number;
  readonly idle: number;
  readonly booting: number;
  readonly waiting: number;
  /** Hex digest. */
  readonly identity: string;
}

export interface PoolVmStatus {
  readonly id: string;
  readonly state: string;
  readonly qemuPid: number;
  readonly sandboxPid: number;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly ageMs: number;
}

export interface PoolSlotStatus {
  /** Name of its shape; indexes count within it. */
  readonly shape: string;
  readonly index: number;
  readonly state: string;
  readonly id: string;
  readonly step: string;
  readonly failures: number;
  readonly lastError: string;
  readonly retryInMs: number;
}

/** Fails with "unavailable" when no pool server answers on the endpoint. */
export async function vmCacheStatus(endpoint: string, timeoutMs = POOL_PROBE_TIMEOUT_MS): Promise<PoolStatus> {
  return await asking(endpoint, async (cache) => plainStatus(await cache.status({}, { timeoutMs })));
}

/**
 * Asks the server to quit and waits until its process is gone; returns its pid. VMs that are in use go on. `timeoutMs`
 * holds for each: its answers, and its end.
 */
export async function stopVmCache(endpoint: string, timeoutMs = POOL_QUIT_TIMEOUT_MS): Promise<number> {
  return await asking(endpoint, async (cache) => {
    const { pid } = await cache.status({}, { timeoutMs });
    const server = identifyProcess(Number(pid));
    await cache.quit({}, { timeoutMs });
    await waitForExit(server, timeoutMs);
    return server.pid;
  });
}

async function waitForExit(server: ProcessIdentity, timeoutMs: number): Promise<void> {
  const deadline = AbortSignal.timeout(timeoutMs);
  try {
    await processExit(server, deadline);
  } catch (thrown) {
    if (!deadline.aborted) throw thrown;
    throw new HearthError("deadline-exceeded", `stop pool server ${server.pid}: it still runs after ${timeoutMs} ms`);
  }
}

/** The pid of the pool server there; undefined when what answers is none. */
export async function probePool(endpoint: string): Promise<number | undefined> {
  try {
    return (await vmCacheStatus(endpoint)).pid;
  } catch {
    return undefined;
  }
}

async function asking<T>(endpoint: string, ask: (cache: GrpcClientOf<typeof CacheService>) => Promise<T>): Promise<T> {
  assertSocketPath(endpoint);
  await using client = new GrpcClient(endpoint);
  try {
    return await ask(createGrpcClient(CacheService, client));
  } catch (thrown) {
    if (!(thrown instanceof RemoteError) || thrown.code !== "unavailable") throw thrown;
    throw new HearthError("unavailable", `ask pool server on ${endpoint}: nobody answers there`, {
      cause: thrown,
      hint: "start one with: hearth vmcache serve",
    });
  }
}

function plainStatus(status: GrpcStatus): PoolStatus {
  const { counters } = status;
  return {
    pid: Number(status.pid),
    version: status.version,
    identity: status.identity,
    startedAtMs: Number(status.startedAtMs),
    idle: status.vmstatus.map(plainVm),
    handedOut: status.handedOut.map(plainVm),
    slots: status.slots.map(({ shape, index, state, id, step, failures, lastError, retryInMs }) => ({
      shape,
      index,
      state,
      id,
      step,
      failures,
      lastError,
      retryInMs,
    })),
    waiting: status.waiting,
    hits: Number(counters?.hits ?? 0n),
    misses: Number(counters?.misses ?? 0n),
    missesByReason: Object.fromEntries(
      Object.entries(counters?.missesByReason ?? {}).map(([reason, count]) => [reason, Number(count)]),
    ),
    boots: Number(counters?.boots ?? 0n),
    bootFailures: Number(counters?.bootFailures ?? 0n),
    losses: Number(counters?.losses ?? 0n),
    adopted: Number(counters?.adopted ?? 0n),
    retired: Number(counters?.retired ?? 0n),
    drained: Number(counters?.drained ?? 0n),
    suspensions: Number(counters?.suspensions ?? 0n),
    shapes: status.shapes.map(({ name, vcpus, memory, number, idle, booting, waiting, identity }) => ({
      name,
      vcpus,
      memoryMib: memory,
      number,
      idle,
      booting,
      waiting,
      identity,
    })),
    memoryMib: Number(status.memoryMib),
    memoryMaxMib: Number(status.memoryMaxMib),
    configError: status.configError,
  };
}

function plainVm(vm: GrpcVMStatus): PoolVmStatus {
  return {
    id: vm.id,
    state: vm.state,
    qemuPid: Number(vm.pid),
    sandboxPid: Number(vm.sandboxPid),
    vcpus: vm.cpu,
    memoryMib: vm.memory,
    ageMs: Number(vm.ageMs),
  };
}
