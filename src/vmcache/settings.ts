/** The pool's settings as the configuration means them. */
import type { HearthConfig } from "../config/config.ts";
import { HearthError } from "../errors.ts";
import type { PoolSettings, PoolShape } from "../factory/vm-pool.ts";
import type { VmConfig } from "../vm/vm-config.ts";

/** `vm` is the VM of the default size. Fails with invalid-argument when no VM is wanted at all. */
export function poolSettings({ factory }: HearthConfig, vm: VmConfig): PoolSettings {
  return {
    shapes: poolShapes(factory, vm),
    leaseMs: factory.vm_cache_lease_ms,
    bootsAtOnce: factory.vm_cache_boots_at_once,
    memoryMaxMib: factory.vm_cache_memory_max,
    backoff: { minMs: factory.vm_cache_backoff_ms, maxMs: factory.vm_cache_backoff_max_ms },
    ageMaxMs: factory.vm_cache_age_max_s * 1000,
    checkIntervalMs: factory.vm_cache_check_interval_s * 1000,
    queueLengthMax: factory.vm_cache_queue_length,
    templateDir: factory.enable_template ? factory.template_path : undefined,
  };
}

function poolShapes(factory: HearthConfig["factory"], vm: VmConfig): PoolShape[] {
  if (factory.vm_cache_shapes.length > 0) {
    return factory.vm_cache_shapes.map(({ vcpus, memory, number }) => ({
      config: { ...vm, vcpus, memoryMib: memory },
      number,
    }));
  }
  if (factory.vm_cache_number > 0) return [{ config: vm, number: factory.vm_cache_number }];
  throw new HearthError("invalid-argument", "serve pool: vm_cache_number is 0, so there is nothing to keep", {
    hint: "set vm_cache_number or vm_cache_shapes in [factory], or pass --number",
  });
}
