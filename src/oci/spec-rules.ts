/** What the OCI runtime spec forbids beyond the shape of config.json; each rule is one MUST that has to be an error. */
import { HearthError } from "../errors.ts";
import type { Spec } from "./spec.ts";

/** The spec's four, and the recursive forms that every runtime takes. */
const PROPAGATIONS: ReadonlySet<string> = new Set(
  ["private", "shared", "slave", "unbindable"].flatMap((name) => [name, `r${name}`]),
);

/** Fails with invalid-argument for the first rule that is broken, naming the property. */
export function checkRules(spec: Spec, source: string): void {
  const broken = firstBroken(spec);
  if (broken !== undefined)
    throw new HearthError("invalid-argument", `check ${source}: ${broken}`, { facts: { source } });
}

function firstBroken(spec: Spec): string | undefined {
  const { process, annotations, linux } = spec;
  const limit = duplicate((process?.rlimits ?? []).map(({ type }) => type));
  if (limit !== undefined) return `process.rlimits has ${limit} more than once`;
  if (annotations !== undefined && Object.hasOwn(annotations, "")) return "annotations has an empty key";
  if (linux === undefined) return undefined;
  const namespaces = (linux.namespaces ?? []).map(({ type }) => type);
  const namespace = duplicate(namespaces);
  if (namespace !== undefined) return `linux.namespaces has ${namespace} more than once`;
  const { rootfsPropagation } = linux;
  if (rootfsPropagation !== undefined && rootfsPropagation !== "" && !PROPAGATIONS.has(rootfsPropagation)) {
    return `linux.rootfsPropagation ${JSON.stringify(rootfsPropagation)} is not known`;
  }
  const netDevices = Object.entries(linux.netDevices ?? {}).map(([name, { name: newName }]) => newName || name);
  const badName = [...Object.keys(linux.netDevices ?? {}), ...netDevices].find((name) => !isInterfaceName(name));
  if (badName !== undefined) return `linux.netDevices: ${JSON.stringify(badName)} is no name of an interface`;
  const taken = duplicate(netDevices);
  if (taken !== undefined) return `linux.netDevices gives ${taken} to more than one`;
  const mapped = [...(linux.uidMappings ?? []), ...(linux.gidMappings ?? [])].length > 0;
  if (mapped && !namespaces.includes("user")) return "linux.uidMappings and gidMappings need a user namespace";
  const hasOffsets = Object.keys(linux.timeOffsets ?? {}).length > 0;
  if (hasOffsets && !namespaces.includes("time")) return "linux.timeOffsets need a time namespace";
  return brokenSeccompRule(linux.seccomp);
}

/** Source: Linux net/core/dev.c, dev_valid_name(). */
function isInterfaceName(name: string): boolean {
  return /^[^/:\s]{1,15}$/.test(name) && name !== "." && name !== "..";
}

function brokenSeccompRule(seccomp: NonNullable<Spec["linux"]>["seccomp"]): string | undefined {
  if (seccomp === undefined) return undefined;
  if (typeof seccomp.defaultAction !== "string") return "linux.seccomp.defaultAction is missing";
  const empty = (seccomp.syscalls ?? []).findIndex(({ names }) => names.length === 0);
  return empty < 0 ? undefined : `linux.seccomp.syscalls.${empty}.names must name at least one call`;
}

function duplicate(names: readonly string[]): string | undefined {
  return names.find((name, index) => names.indexOf(name) !== index);
}
