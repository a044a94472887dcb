/** Where the runtime's VMs come from: the pool when there is one, else booted for the container. */
import type { BaseVm } from "../../factory/base-factory.ts";
import { createFactory, factoryOptions } from "../../factory/factory.ts";
import { resolveVmConfig } from "../../vm/resolve-config.ts";
import type { VmRequest } from "./context.ts";

/** For tests that look at what a failure leaves behind: the step of sandbox/steps.ts that fails. Nothing else reads it. */
const FAULT_VARIABLE = "HEARTH_FAIL_AT";

/** See RuntimeDependencies. A pooled VM or clone that cannot be adopted is replaced by one booted for the container. */
export async function acquireVm<T>(request: VmRequest, adopt: (vm: BaseVm) => Promise<T>): Promise<T> {
  const { config, log, signal, need } = request;
  const factory = createFactory({ ...factoryOptions(config, log, need), failAt: process.env[FAULT_VARIABLE] });
  const { adopted } = await factory.getAdopted(await resolveVmConfig(config, log), signal, adopt);
  return adopted;
}
