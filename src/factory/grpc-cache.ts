/** The client of the pool: asks the pool server for one VM, with one deadline over all of it. */
import { DeadlineError, HearthError } from "../errors.ts";
import { CacheService } from "../gen/cache_pb.ts";
import { assertSocketPath } from "../sys/unix-socket.ts";
import { baseIdentityDigest, identityOf, type VmConfig, type VmSize } from "../vm/vm-config.ts";
import type { BaseFactory, BaseVm } from "./base-factory.ts";
import { decodePoolConfig, decodePooledVm, encodeNeed, identityDifference } from "./pool-wire.ts";

export interface GrpcCacheOptions {
  /** Unix socket of the pool server. */
  readonly endpoint: string;
  /** Milliseconds for connecting, comparing and waiting for a VM together. */
  readonly timeoutMs: number;
  /** The size that is needed, by which the pool chooses. Default: that of the VM's configuration. */
  readonly need?: VmSize | undefined;
}

/** The pool's VMs are not what the caller needs. */
export class PoolMismatchError extends HearthError {
  override readonly name = "PoolMismatchError";
}

/**
 * Fails with PoolMismatchError, with DeadlineError, with "unavailable" when no server is there, with "resource-exhausted"
 * when too many wait; and never later than the deadline, whatever is at the endpoint.
 */
export function createGrpcCacheFactory(options: GrpcCacheOptions): BaseFactory {
  return { getBaseVm: (config, signal) => askPool(options, config, signal) };
}

async function askPool(options: GrpcCacheOptions, config: VmConfig, signal: AbortSignal): Promise<BaseVm> {
  const { endpoint, timeoutMs, need = config } = options;
  const startedAt = performance.now();
  assertSocketPath(endpoint);
  const { createGrpcClient, GrpcClient } = await import("../rpc/grpc.ts");
  await using client = new GrpcClient(endpoint);
  const cache = createGrpcClient(CacheService, client);
  const metadata = encodeNeed(config, need);
  const callOptions = () => {
    const leftMs = timeoutMs - (performance.now() - startedAt);
    if (leftMs <= 0) throw new DeadlineError(`pool server on ${endpoint}`, timeoutMs);
    return { signal, timeoutMs: leftMs, metadata };
  };
  try {
    const pool = decodePoolConfig((await cache.config({}, callOptions())).Data);
    if (pool.baseDigest !== baseIdentityDigest(config)) {
      const fields = identityDifference(identityOf(config), pool.identity).join(", ");
      throw new PoolMismatchError("failed-precondition", `use pool on ${endpoint}: its vms differ in ${fields}`);
    }
    return decodePooledVm(await cache.getBaseVM({}, callOptions()), config);
  } catch (thrown) {
    // The deadline of the last call is what was left of the whole: name the whole.
    if (thrown instanceof DeadlineError) {
      throw new DeadlineError(`pool server on ${endpoint}`, timeoutMs, { cause: thrown });
    }
    throw thrown;
  }
}
