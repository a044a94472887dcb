/** Which VM a container goes into: its own, or another container's, as a pod's annotations or its network namespace say. */
import { HearthError } from "../errors.ts";

/** "single": a VM of its own; "sandbox": makes the pod's VM; "member": joins the VM that container `sandboxId` is in. */
export type PodRole =
  | { readonly kind: "single" }
  | { readonly kind: "sandbox" }
  | { readonly kind: "member"; readonly sandboxId: string };

/**
 * What stands for the path of a namespace on its way into the guest, followed by the id of a container there whose
 * namespace is meant: only the agent knows pids of the guest.
 */
export const CONTAINER_NAMESPACE_PREFIX = "container:";

/** Of containerd's CRI plugin and of CRI-O (podman's `kube play` writes the latter too). Source: their annotations packages. */
const CRIO = { type: "io.kubernetes.cri-o.ContainerType", sandboxId: "io.kubernetes.cri-o.SandboxID" } as const;
const SCHEMES = [
  { type: "io.kubernetes.cri.container-type", sandboxId: "io.kubernetes.cri.sandbox-id" },
  CRIO,
] as const;

/** Fails with invalid-argument for a container type nobody knows, or a member that names no sandbox. */
export function podRole(annotations: Readonly<Record<string, string>> | undefined): PodRole {
  for (const scheme of SCHEMES) {
    const type = annotations?.[scheme.type];
    if (type === undefined) continue;
    if (type === "sandbox") return { kind: "sandbox" };
    if (type !== "container") {
      throw new HearthError("invalid-argument", `read annotation ${scheme.type}: unknown type ${JSON.stringify(type)}`);
    }
    const sandboxId = annotations?.[scheme.sandboxId];
    if (sandboxId === undefined || sandboxId === "") {
      throw new HearthError("invalid-argument", `read annotation ${scheme.sandboxId}: a container of a pod needs it`);
    }
    return { kind: "member", sandboxId };
  }
  return { kind: "single" };
}

interface PlacedSpec {
  readonly annotations?: Readonly<Record<string, string>> | undefined;
  readonly linux?:
    | { readonly namespaces?: readonly { readonly type: string; readonly path?: string | undefined }[] | undefined }
    | undefined;
}

/** The containers that there are. */
export interface Neighbours {
  /** The one whose shim has the pid: engines name its namespaces by that. */
  readonly containerOfPid: (pid: number) => string | undefined;
  readonly hasContainer: (id: string) => boolean;
}

/**
 * As podRole; without a pod, who is given the network namespace of another container joins that one's VM, which is its
 * network. Podman's pods without an infra container name a sandbox that is none, and share nothing.
 */
export function vmRole(spec: PlacedSpec, { containerOfPid, hasContainer }: Neighbours): PodRole {
  const role = podRole(spec.annotations);
  const isPodmans = spec.annotations?.[CRIO.type] !== undefined;
  if (role.kind === "member" && isPodmans && !hasContainer(role.sandboxId)) return { kind: "single" };
  if (role.kind !== "single") return role;
  const network = spec.linux?.namespaces?.find(({ type }) => type === "network");
  const pid = /^\/proc\/(\d{1,10})\/ns\/net$/.exec(network?.path ?? "")?.[1];
  const sandboxId = pid === undefined ? undefined : containerOfPid(Number(pid));
  return sandboxId === undefined ? role : { kind: "member", sandboxId };
}

/** Size that the limits of a container or pod ask of its VM; 0 where they ask for nothing. */
export interface WantedSize {
  readonly vcpus: number;
  /** MiB, the guest's own needs included. */
  readonly memoryMib: number;
}

const MIB = 1024n * 1024n;
/** MiB the guest's kernel and agent use beside the containers. */
const GUEST_OVERHEAD_MIB = 128n;

/** Limits that make a VM grow. 0 or less: none. */
export interface SizeLimits {
  /** CPU time in microseconds in each `period` of them. */
  readonly quota: bigint;
  readonly period: bigint;
  /** Bytes. */
  readonly memory: bigint;
  /** Bytes in huge pages, which no limit of memory counts. */
  readonly hugepages: bigint;
}

export const NO_LIMITS: SizeLimits = { quota: 0n, period: 0n, memory: 0n, hugepages: 0n };

interface LimitedResources {
  readonly memory?: { readonly limit?: number | bigint | undefined } | undefined;
  readonly cpu?:
    | { readonly quota?: number | bigint | undefined; readonly period?: number | bigint | undefined }
    | undefined;
  readonly hugepageLimits?: readonly { readonly limit: number | bigint }[] | undefined;
}

/** Those of a container; what the resources leave out stays as it was `before`. */
export function limitsOf(resources: LimitedResources | undefined, before: SizeLimits = NO_LIMITS): SizeLimits {
  return {
    quota: whole(resources?.cpu?.quota) ?? before.quota,
    period: whole(resources?.cpu?.period) ?? before.period,
    memory: whole(resources?.memory?.limit) ?? before.memory,
    hugepages: resources?.hugepageLimits === undefined ? before.hugepages : sumOfLimits(resources.hugepageLimits),
  };
}

function sumOfLimits(limits: readonly { readonly limit: number | bigint }[]): bigint {
  return limits
    .map(({ limit }) => BigInt(limit))
    .filter(isLimit)
    .reduce((sum, limit) => sum + limit, 0n);
}

interface SizedSpec {
  readonly annotations?: Readonly<Record<string, string>> | undefined;
  readonly linux?: { readonly resources?: LimitedResources | undefined } | undefined;
}

/** The pod's limits when the engine gives them in annotations, else the container's own. */
export function wantedSize({ annotations, linux }: SizedSpec): WantedSize {
  const own = limitsOf(linux?.resources);
  return sizeFor([
    {
      quota: numberOf(annotations?.["io.kubernetes.cri.sandbox-cpu-quota"]) ?? own.quota,
      period: numberOf(annotations?.["io.kubernetes.cri.sandbox-cpu-period"]) ?? own.period,
      memory: numberOf(annotations?.["io.kubernetes.cri.sandbox-memory"]) ?? own.memory,
      hugepages: own.hugepages,
    },
  ]);
}

/** The size of a VM for several containers with these limits: fractions of CPUs are added up, then rounded up. */
export function sizeFor(containers: readonly SizeLimits[]): WantedSize {
  const cpus = containers.reduce((sum, { quota, period }) => {
    return quota > 0n && period > 0n ? sum + Number(quota) / Number(period) : sum;
  }, 0);
  const limited = containers.map(({ memory }) => memory).filter(isLimit);
  const hugepages = containers.reduce((sum, container) => sum + container.hugepages, 0n);
  const bytes = limited.reduce((sum, memory) => sum + memory, hugepages);
  return {
    vcpus: Math.ceil(Number(cpus.toFixed(CPU_DIGITS))),
    memoryMib: bytes > 0n ? Number((bytes + MIB - 1n) / MIB + GUEST_OVERHEAD_MIB) : 0,
  };
}

/** Engines write the largest multiple of a page for "no limit"; no VM is that large either. */
export function isLimit(memoryBytes: bigint): boolean {
  return memoryBytes > 0n && memoryBytes < 1n << 60n;
}

/** Decimals of a CPU that count: three tenths are not a little more than 0.3. */
const CPU_DIGITS = 6;

/** Undefined for a missing or empty annotation and for "0", which containerd writes for "not set". */
function numberOf(text: string | undefined): bigint | undefined {
  if (text === undefined || !/^-?\d{1,19}$/.test(text)) return undefined;
  const value = BigInt(text);
  return value > 0n ? value : undefined;
}

function whole(value: number | bigint | undefined): bigint | undefined {
  return value === undefined ? undefined : BigInt(value);
}
