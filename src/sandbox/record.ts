/** The sandbox's record as it is now, and the first one, while it boots. */

import type { AgentAddress } from "../agent/client/client.ts";
import type { VmPaths } from "../paths.ts";
import type { ProcessIdentity } from "../sys/process-identity.ts";
import type { VmConfig } from "../vm/vm-config.ts";
import { baseIdentityDigest, identityDigest } from "../vm/vm-config.ts";
import { VM_RECORD_VERSION, type VmRecord } from "../vm/vm-record.ts";
import type { Sandbox } from "./sandbox.ts";

export interface BootingVm {
  readonly vmId: string;
  readonly paths: VmPaths;
  readonly config: VmConfig;
  readonly agentAddress: AgentAddress;
  readonly owner: ProcessIdentity;
}

/** Written as soon as a process was started, so that it can be ended should the owner die. */
export function bootingRecord(vm: BootingVm, processes: readonly ProcessIdentity[]): VmRecord {
  return {
    version: VM_RECORD_VERSION,
    vmId: vm.vmId,
    state: "booting",
    identity: identityDigest(vm.config),
    baseIdentity: baseIdentityDigest(vm.config),
    guestDigest: vm.config.guestDigest,
    hypervisor: "qemu",
    sandbox: { ...vm.owner },
    processes: [...processes],
    sandboxSocket: vm.paths.sandboxSocket,
    qmpSocket: vm.paths.qmpSocket,
    agentAddress: { ...vm.agentAddress },
    vcpus: vm.config.vcpus,
    memoryMib: vm.config.memoryMib,
    sharedFs: vm.config.sharedFs,
    readyAtMs: 0,
    containers: [],
  };
}

export function vmRecordOf(sandbox: Sandbox): VmRecord {
  const { vm } = sandbox;
  return {
    ...bootingRecord(vm, vm.processes),
    state: sandbox.state.kind,
    identity: vm.identity,
    ...(vm.isClone ? { isClone: true } : {}),
    vcpus: vm.hypervisor.vcpus,
    memoryMib: vm.hypervisor.memoryMib,
    readyAtMs: sandbox.readyAtMs,
    containers: sandbox.containerIds,
  };
}
