/** The direct factory: boots one VM by starting a sandbox process for it. It always works; it is what others fall back to. */
import type { BaseFactory, BaseVm } from "./base-factory.ts";
import { type LaunchedSandbox, type LaunchOptions, launchSandbox } from "./launch.ts";

/** In mode "leased" the VM runs and must be adopted within `leaseMs`; in mode "idle" it is rehearsed and paused. */
export function createDirectFactory(options: LaunchOptions): BaseFactory {
  return {
    getBaseVm: async (config, signal) => baseVmOf(await launchSandbox(options, config, signal), "direct"),
  };
}

export function baseVmOf({ vmId, token, ready }: LaunchedSandbox, source: BaseVm["source"]): BaseVm {
  return {
    vmId,
    token,
    sandbox: ready.sandbox,
    sandboxSocket: ready.socket,
    vcpus: ready.vcpus,
    memoryMib: ready.memoryMib,
    source,
  };
}
