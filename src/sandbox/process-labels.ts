/** The labels of a process: AppArmor profiles of the host go with it into the guest, which has no SELinux. */
import type { Process } from "../oci/spec.ts";
import { cannotApply, type HostProfile, type HostSecurity } from "./host-security.ts";
import { refuse } from "./refuse.ts";

export interface LabelledProcess {
  /** As the guest's crun gets it. */
  readonly process: Process;
  /** AppArmor profiles that the guest's kernel has to have before. */
  readonly profiles: readonly GuestProfile[];
}

export interface GuestProfile extends HostProfile {
  readonly binary: Uint8Array;
}

const UNCONFINED = "unconfined";

/**
 * `isConfined`: without a profile of its own the process gets one, that of its container. Fails as HostSecurity does, and
 * with unimplemented for an SELinux label where the host has no SELinux either, as runc.
 */
export function labelledProcess(
  { apparmorProfile, selinuxLabel, ...process }: Process,
  host: HostSecurity,
  isConfined: boolean,
  warnings: string[],
): LabelledProcess {
  if (selinuxLabel) dropLabel("process.selinuxLabel", selinuxLabel, host, warnings);
  if (!apparmorProfile || (apparmorProfile === UNCONFINED && !isConfined)) return { process, profiles: [] };
  const found = profileNames(apparmorProfile).map((name) => host.apparmorProfile(name));
  const profiles = found.filter((profile): profile is GuestProfile => profile.binary !== undefined);
  if (profiles.length === found.length) return { process: { ...process, apparmorProfile }, profiles };
  warnings.push(notApplied(apparmorProfile, "the host's kernel does not give it out"));
  return { process, profiles: [] };
}

/**
 * Of a name, the profiles that are loaded by themselves: of a stack ("a//&b") all, of a child ("a//b") its parent.
 * Source: apparmor.d(5), aa-stack.
 */
function profileNames(name: string): string[] {
  const names = name.split("//&").map((part) => part.split("//")[0] ?? part);
  if (names.some((part) => part.startsWith(":"))) throw cannotApply(name, "it is in a policy namespace of the host");
  return [...new Set(names)].filter((part) => part !== UNCONFINED);
}

export function notApplied(profile: string, why: string): string {
  return `process.apparmorProfile ${profile} is not applied: ${why}`;
}

/** A label that engines set by default where there is SELinux; elsewhere somebody asked for it. */
export function dropLabel(property: string, label: string, { hasSelinux }: HostSecurity, warnings: string[]): void {
  if (!hasSelinux) refuse(property, "selinux is disabled or not supported");
  warnings.push(`${property} ${label} is not applied: the guest has no SELinux`);
}
