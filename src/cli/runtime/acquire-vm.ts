/** Where the runtime's VMs come from: the pool when there is one, else booted for the container. */
import type { HearthConfig } from "../../config/config.ts";
import type { BaseVm } from "../../factory/base-factory.ts";
import { createFactory } from "../../factory/factory.ts";
import type { Log } from "../../log.ts";
import { resolveVmConfig } from "../../vm/resolve-config.ts";

/** For tests that look at what a failure leaves behind: the step of sandbox/steps.ts that fails. Nothing else reads it. */
const FAULT_VARIABLE = "HEARTH_FAIL_AT";

/** A VM leased to us; see RuntimeDependencies. */
export async function acquireVm(config: HearthConfig, log: Log, signal: AbortSignal): Promise<BaseVm> {
  const { vm_cache_number, vm_cache_endpoint, vm_cache_timeout_ms, vm_cache_lease_ms } = config.factory;
  const factory = createFactory({
    runDir: config.runtime.run_dir,
    leaseMs: vm_cache_lease_ms,
    logLevel: config.runtime.log_level,
    log,
    failAt: process.env[FAULT_VARIABLE],
    pool: vm_cache_number === 0 ? undefined : { endpoint: vm_cache_endpoint, timeoutMs: vm_cache_timeout_ms },
  });
  return await factory.getVm(await resolveVmConfig(config, log), signal);
}
