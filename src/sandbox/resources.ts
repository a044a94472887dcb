/** Grows a VM to the size a sandbox asks for; a VM that has more is accepted as it is. */
import { MEMORY_BLOCK_MIB } from "../limits.ts";
import type { Vm } from "../vm/vm.ts";

/** `vcpus` and `memoryMib` are the wanted totals; 0 means as it is. Plugs what is missing and brings it online. */
export async function growVm(
  vm: Vm,
  wanted: { readonly vcpus: number; readonly memoryMib: number },
  signal: AbortSignal,
): Promise<void> {
  const vcpus = Math.max(0, wanted.vcpus - vm.hypervisor.vcpus);
  const missingMib = Math.max(0, wanted.memoryMib - vm.hypervisor.memoryMib);
  const memoryMib = Math.ceil(missingMib / MEMORY_BLOCK_MIB) * MEMORY_BLOCK_MIB;
  if (vcpus === 0 && memoryMib === 0) return;
  if (vcpus > 0) await vm.hypervisor.addVcpus(vcpus, signal);
  if (memoryMib > 0) await vm.hypervisor.addMemory(memoryMib, signal);
  await vm.agent.agent.onlineCPUMem({ wait: true, nbCpus: vcpus, cpuOnly: memoryMib === 0 }, { signal });
}
