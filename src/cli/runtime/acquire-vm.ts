/** Where the runtime's VMs come from: booted for the container by the direct factory. */
import type { HearthConfig } from "../../config/config.ts";
import type { BaseVm } from "../../factory/base-factory.ts";
import { createDirectFactory } from "../../factory/direct.ts";
import type { Log } from "../../log.ts";
import { resolveVmConfig } from "../../vm/resolve-config.ts";

/** A VM leased to us; see RuntimeDependencies. */
export async function acquireVm(config: HearthConfig, log: Log, signal: AbortSignal): Promise<BaseVm> {
  const vmConfig = await resolveVmConfig(config, log);
  const factory = createDirectFactory({
    runDir: config.runtime.run_dir,
    mode: "leased",
    leaseMs: config.factory.vm_cache_lease_ms,
    logLevel: config.runtime.log_level,
    log,
  });
  return await factory.getBaseVm(vmConfig, signal);
}
