/** Where the runtime's VMs come from: the pool when there is one, else booted for the container. */
import type { BaseVm } from "../../factory/base-factory.ts";
import { createFactory, factoryOptions } from "../../factory/factory.ts";
import { resolveVmConfig } from "../../vm/resolve-config.ts";
import type { VmRequest } from "./context.ts";

/** See RuntimeDependencies. A pooled VM that cannot be adopted is replaced by one booted for the container. */
export async function acquireVm<T>(request: VmRequest, adopt: (vm: BaseVm) => Promise<T>): Promise<T> {
  const { config, log, signal } = request;
  const factory = createFactory(factoryOptions(config, log));
  const { adopted } = await factory.getAdopted(await resolveVmConfig(config, log), signal, adopt);
  return adopted;
}
