/** The limits of a container as its cgroup in the guest gets them; those of the whole VM are host-limits.ts's. */
import type { PodRole } from "../oci/pod.ts";
import type { Resources } from "../oci/spec.ts";
import { refuse } from "./refuse.ts";

/**
 * Without what names devices, CPUs or memory nodes of the host: that holds for the VM, on the host. The VM of a member is
 * another container's, so its own is a warning, or an error where no engine sets it by default.
 */
export function guestResources(resources: Resources, role: PodRole, warnings: string[]): Resources {
  const { network, rdma, blockIO, cpu, memory, pids, ...others } = resources;
  const rest = {
    ...others,
    ...(memory === undefined ? {} : { memory: guestMemory(memory, warnings) }),
    // As runc since 1.4; crun takes 0 for no limit at all.
    ...(pids === undefined ? {} : { pids: Number(pids.limit) === 0 ? { ...pids, limit: 1 } : pids }),
  };
  if (network !== undefined && Object.keys(network).length > 0) {
    refuse("linux.resources.network", "cgroup v2, which the guest has, knows no network classes");
  }
  if (rdma !== undefined && Object.keys(rdma).length > 0) {
    refuse("linux.resources.rdma", "the guest has no RDMA devices");
  }
  const { realtimeRuntime, realtimePeriod, cpus, mems, burst, ...shares } = cpu ?? {};
  for (const [name, value] of Object.entries({ realtimeRuntime, realtimePeriod })) {
    if (value) refuse(`linux.resources.cpu.${name}`, "cgroup v2, which the guest has, has no such limit");
  }
  if (role.kind === "member") refuseOfMember({ blockIO, cpus, mems }, warnings);
  const limits = cpu === undefined ? rest : { ...rest, cpu: shares };
  // crun 1.8 does not know it, but writes what it finds for files of cgroup v2.
  return burst !== undefined ? { ...limits, unified: { ...rest.unified, "cpu.max.burst": String(burst) } } : limits;
}

/** Engines write 0 for them by default. */
function guestMemory(memory: NonNullable<Resources["memory"]>, warnings: string[]): NonNullable<Resources["memory"]> {
  const { kernel, kernelTCP, ...rest } = memory;
  for (const [name, value] of Object.entries({ kernel, kernelTCP })) {
    if (Number(value ?? 0) > 0)
      warnings.push(`linux.resources.memory.${name} is not applied: cgroup v2 has no such limit`);
  }
  return rest;
}

interface OfTheVm {
  readonly blockIO: Resources["blockIO"];
  readonly cpus: string | undefined;
  readonly mems: string | undefined;
}

function refuseOfMember({ blockIO, cpus, mems }: OfTheVm, warnings: string[]): void {
  const why = "it holds for the VM, which is another container's";
  for (const [name, value] of Object.entries(blockIO ?? {})) {
    if (Array.isArray(value) && value.length > 0) refuse(`linux.resources.blockIO.${name}`, why);
    if (!Array.isArray(value) && value) warnings.push(`linux.resources.blockIO.${name} is not applied: ${why}`);
  }
  if (cpus) warnings.push(`linux.resources.cpu.cpus ${cpus} is not applied: ${why}`);
  if (mems) warnings.push(`linux.resources.cpu.mems ${mems} is not applied: ${why}`);
}
