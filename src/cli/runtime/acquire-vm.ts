/** Where the runtime's VMs come from: the pool when there is one, else booted for the container. */
import { HearthError } from "../../errors.ts";
import type { BaseVm } from "../../factory/base-factory.ts";
import { createFactory, factoryOptions } from "../../factory/factory.ts";
import { FAULT_VARIABLE, isSandboxStep, type SandboxStep } from "../../sandbox/steps.ts";
import { resolveVmConfig } from "../../vm/resolve-config.ts";
import type { VmRequest } from "./context.ts";

/** See RuntimeDependencies. A pooled VM or clone that cannot be adopted is replaced by one booted for the container. */
export async function acquireVm<T>(request: VmRequest, adopt: (vm: BaseVm) => Promise<T>): Promise<T> {
  const { config, log, signal, need } = request;
  const factory = createFactory({ ...factoryOptions(config, log, need), failAt: faultFromEnvironment() });
  const { adopted } = await factory.getAdopted(await resolveVmConfig(config, log), signal, adopt);
  return adopted;
}

/** All that it can do is to fail a create, which then says why. */
function faultFromEnvironment(): SandboxStep | undefined {
  const name = process.env[FAULT_VARIABLE];
  if (name === undefined || isSandboxStep(name)) return name;
  throw new HearthError("invalid-argument", `use ${FAULT_VARIABLE}: no step is called ${JSON.stringify(name)}`);
}
