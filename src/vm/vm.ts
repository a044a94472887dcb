/** A booted VM: the hypervisor, the channel to its agent and its shared directory, owned together and disposed in order. */
import type { AgentAddress, AgentClient } from "../agent/client/client.ts";
import type { Hypervisor } from "../hypervisor/interface.ts";
import type { VmPaths } from "../paths.ts";
import type { SharedDirectory } from "../storage/shared-directory.ts";
import type { ProcessIdentity } from "../sys/process-identity.ts";
import { identityDigest, type VmConfig } from "./vm-config.ts";

export interface VmParts {
  readonly vmId: string;
  readonly paths: VmPaths;
  readonly config: VmConfig;
  readonly hypervisor: Hypervisor;
  readonly agent: AgentClient;
  readonly agentAddress: AgentAddress;
  readonly shared: SharedDirectory;
  /** This process. */
  readonly owner: ProcessIdentity;
  /** Made of a saved VM: what its kernel has generated once, other VMs have too. Default false. */
  readonly isClone?: boolean;
  /** Disposes the directory, lock, and whatever else the parts were built on, after them. */
  readonly foundations: AsyncDisposableStack;
}

export class Vm implements AsyncDisposable {
  readonly vmId: string;
  readonly paths: VmPaths;
  readonly config: VmConfig;
  /** Hex digest; VMs of equal identity are interchangeable. */
  readonly identity: string;
  readonly hypervisor: Hypervisor;
  readonly agent: AgentClient;
  readonly agentAddress: AgentAddress;
  readonly shared: SharedDirectory;
  readonly owner: ProcessIdentity;
  readonly isClone: boolean;
  readonly #foundations: AsyncDisposableStack;

  constructor(parts: VmParts) {
    this.vmId = parts.vmId;
    this.paths = parts.paths;
    this.config = parts.config;
    this.identity = identityDigest(parts.config);
    this.hypervisor = parts.hypervisor;
    this.agent = parts.agent;
    this.agentAddress = parts.agentAddress;
    this.shared = parts.shared;
    this.owner = parts.owner;
    this.isClone = parts.isClone === true;
    this.#foundations = parts.foundations;
  }

  /** The processes that work for the VM, this one not included. */
  get processes(): ProcessIdentity[] {
    return [this.hypervisor.process, ...this.shared.processes];
  }

  /** Kills QEMU and waits for its end; what was mounted for it may be unmounted then. Idempotent. */
  async endHypervisor(): Promise<void> {
    this.agent.close();
    await this.hypervisor[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.endHypervisor();
    await this.shared[Symbol.asyncDispose]();
    await this.#foundations.disposeAsync();
  }
}
