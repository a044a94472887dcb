/** Grows a VM to the size that its containers ask for together; a VM that has more is accepted as it is. */
import type { Hypervisor } from "../hypervisor/interface.ts";
import { MEMORY_BLOCK_MIB, TRANSLATION_BUFFER_FILLS_MAX } from "../limits.ts";
import type { Log } from "../log.ts";
import { isLimit, limitsOf, type SizeLimits, sizeFor, type WantedSize } from "../oci/pod.ts";
import type { Resources } from "../oci/spec.ts";
import type { Vm } from "../vm/vm.ts";
import { HostMemory } from "./host-memory.ts";

/** What is asked of the VM: by its adopter for the pod as a whole, and by the limits of each container. */
export class VmResources {
  readonly #vm: Vm;
  readonly #log: Log;
  readonly #containers = new Map<string, SizeLimits>();
  #whole: WantedSize = { vcpus: 0, memoryMib: 0 };
  #hostMemory = new HostMemory([]);
  /** Of a pod its sandbox, which only waits: it need not be limited for the VM to be. */
  #podSandboxId: string | undefined;
  /** One at a time: what is missing is looked up and then added. */
  #growing: Promise<void> = Promise.resolve();

  constructor(vm: Vm, log: Log) {
    this.#vm = vm;
    this.#log = log;
  }

  /**
   * Totals; 0 means as the VM is. Plugs what is missing and brings it online, as far as the configuration allows. `cgroupDirs`:
   * where the VM's processes are on the host.
   */
  async growTo(size: WantedSize, cgroupDirs: readonly string[], signal: AbortSignal): Promise<void> {
    this.#whole = size;
    this.#hostMemory = new HostMemory(cgroupDirs);
    await this.#grow(signal);
  }

  /** For a container that is there or about to be; limits that `resources` leaves out stay as they were. */
  async growFor(containerId: string, resources: Resources | undefined, signal: AbortSignal): Promise<void> {
    this.#containers.set(containerId, limitsOf(resources, this.#containers.get(containerId)));
    await this.#grow(signal);
  }

  /** The container is the sandbox of a pod. */
  setPodSandbox(containerId: string): void {
    this.#podSandboxId = containerId;
  }

  /** The container has gone. The VM stays as large as it is. */
  forget(containerId: string): void {
    this.#containers.delete(containerId);
  }

  #grow(signal: AbortSignal): Promise<void> {
    const growing = this.#growing.then(async () => {
      const together = sizeFor([...this.#containers.values()]);
      await this.#growVm(largest(this.#whole, together), signal);
    });
    this.#growing = growing.catch(() => undefined);
    return growing;
  }

  /** A limit above what a VM may have is a limit all the same, as it is on a host: the VM becomes as large as it may. */
  async #growVm(wanted: WantedSize, signal: AbortSignal): Promise<void> {
    const { hypervisor, agent, config } = this.#vm;
    const missing = missingSize(hypervisor, config, wanted);
    const { vcpus, memoryMib } = missing;
    if (missing.isShort) {
      const { maxVcpus, maxMemoryMib } = config;
      this.#log.warn("vm stays smaller than its limits", { ...wanted, maxVcpus, maxMemoryMib });
    }
    if (!this.#hostMemory.bound(this.#isLimited ? hypervisor.memoryMib + memoryMib : undefined)) {
      this.#log.warn("memory of vm not bounded on the host: no such cgroup");
    }
    if (vcpus === 0 && memoryMib === 0) return;
    if (vcpus > 0) {
      await makeRoomForVcpus(this.#vm, vcpus, signal);
      await hypervisor.addVcpus(vcpus, signal);
    }
    if (memoryMib > 0) await hypervisor.addMemory(memoryMib, signal);
    await agent.agent.onlineCPUMem({ wait: true, nbCpus: vcpus, cpuOnly: memoryMib === 0 }, { signal });
  }

  /** A container without a limit may write as much as it likes to a file system in the host's memory, which counts too. */
  get #isLimited(): boolean {
    const limits = [...this.#containers].filter(([id]) => id !== this.#podSandboxId);
    return limits.length > 0 && limits.every(([, { memory }]) => isLimit(memory));
  }
}

/** The guest must run. Gives up quietly: adding the vCPUs says then what is missing. */
export async function makeRoomForVcpus(
  { hypervisor, agent }: { readonly hypervisor: Pick<Hypervisor, "vcpuRoom">; readonly agent: TranslatingAgent },
  vcpus: number,
  signal: AbortSignal,
): Promise<void> {
  for (let fills = 0; fills < TRANSLATION_BUFFER_FILLS_MAX; fills++) {
    if ((await hypervisor.vcpuRoom(signal)) >= vcpus) return;
    await agent.agent.fillTranslationBuffer({}, { signal });
  }
}

interface TranslatingAgent {
  readonly agent: { fillTranslationBuffer(request: object, options: { signal: AbortSignal }): Promise<unknown> };
}

function largest(a: WantedSize, b: WantedSize): WantedSize {
  return { vcpus: Math.max(a.vcpus, b.vcpus), memoryMib: Math.max(a.memoryMib, b.memoryMib) };
}

/** What to add, memory in whole blocks; `isShort` when more is wanted than may be had. */
export function missingSize(
  has: WantedSize,
  max: { readonly maxVcpus: number; readonly maxMemoryMib: number },
  wanted: WantedSize,
): WantedSize & { readonly isShort: boolean } {
  const blocks = Math.ceil(Math.max(0, wanted.memoryMib - has.memoryMib) / MEMORY_BLOCK_MIB);
  const blocksFree = Math.floor(Math.max(0, max.maxMemoryMib - has.memoryMib) / MEMORY_BLOCK_MIB);
  return {
    vcpus: Math.max(0, Math.min(wanted.vcpus, max.maxVcpus) - has.vcpus),
    memoryMib: Math.min(blocks, blocksFree) * MEMORY_BLOCK_MIB,
    isShort: wanted.vcpus > max.maxVcpus || blocks > blocksFree,
  };
}
