/** `update`: changes the limits of a running container, from JSON or from flags. */
import { readFileSync } from "node:fs";
import { HearthError, toHearthError } from "../../errors.ts";
import { canSignal, statusOf } from "../../oci/container-record.ts";
import { lockContainer } from "../../oci/container-store.ts";
import { parseResources, type Resources, stringifySpec } from "../../oci/spec.ts";
import { guestResources } from "../../sandbox/guest-resources.ts";
import { applyHostLimits } from "../../sandbox/host-limits.ts";
import { byteSize } from "../../util/byte-size.ts";
import type { FlagValues } from "../flags.ts";
import { defineRuntimeCommand, onlyContainerId } from "./command.ts";
import { lockTimeoutMs, withSandbox } from "./with-sandbox.ts";

const FLAGS = {
  resources: { type: "string", short: "r", value: "FILE", help: "OCI linux.resources as JSON; - is standard input" },
  "blkio-weight": { type: "string", value: "N", help: "weight of block I/O, 10 to 1000" },
  "cpu-period": { type: "string", value: "US", help: "CPU period in microseconds" },
  "cpu-quota": { type: "string", value: "US", help: "CPU time in each period in microseconds" },
  "cpu-burst": { type: "string", value: "US", help: "CPU time beyond the quota that may be saved up, in microseconds" },
  "cpu-idle": { type: "string", value: "0|1", help: "1: CPU time that nobody else wants" },
  "cpu-share": { type: "string", value: "N", help: "CPU shares" },
  "cpu-rt-period": { type: "string", value: "US", help: "refused: the guest's cgroups have no real-time limit" },
  "cpu-rt-runtime": { type: "string", value: "US", help: "refused: the guest's cgroups have no real-time limit" },
  "cpuset-cpus": { type: "string", value: "LIST", help: "CPUs of the host that the VM may use" },
  "cpuset-mems": { type: "string", value: "LIST", help: "memory nodes of the host that the VM may use" },
  memory: { type: "string", value: "BYTES", help: "memory limit" },
  "memory-reservation": { type: "string", value: "BYTES", help: "soft memory limit" },
  "memory-swap": { type: "string", value: "BYTES", help: "limit of memory and swap" },
  "kernel-memory": { type: "string", value: "BYTES", help: "not applied: cgroup v2 has no such limit" },
  "kernel-memory-tcp": { type: "string", value: "BYTES", help: "not applied: cgroup v2 has no such limit" },
  "pids-limit": { type: "string", value: "N", help: "most processes" },
  "l3-cache-schema": { type: "string", value: "TEXT", help: "refused: not supported" },
  "mem-bw-schema": { type: "string", value: "TEXT", help: "refused: not supported" },
} as const;

type SizeFlag = "memory" | "memory-reservation" | "memory-swap" | "kernel-memory" | "kernel-memory-tcp";
type NumberFlag = "blkio-weight" | "pids-limit" | Extract<keyof typeof FLAGS, `cpu-${string}`>;

export const command = defineRuntimeCommand({
  flags: FLAGS,
  positionals: "<container-id>",
  async run(context, flags, positionals) {
    const id = onlyContainerId(positionals);
    await using container = await lockContainer(await context.root(), id, await lockTimeoutMs(context));
    if (!canSignal(statusOf(container.record))) {
      throw new HearthError("failed-precondition", `container not running: ${id}`, { facts: { id } });
    }
    const resources = flags.resources === undefined ? fromFlags(flags) : fromFile(flags.resources);
    const { record } = container;
    const { joined } = record;
    const warnings: string[] = [];
    // What the guest cannot have is said here; the sandbox process leaves it out again for itself.
    guestResources(
      resources,
      joined === undefined ? { kind: "single" } : { kind: "member", sandboxId: joined.id },
      warnings,
    );
    const resourcesJson = new TextEncoder().encode(stringifySpec(resources));
    // First, as it is here that what somebody else has limited too is refused.
    if (joined === undefined) warnings.push(...applyHostLimits(record.cgroupDirs, resources));
    await withSandbox(context, container.record, (sandbox, timeoutMs) =>
      sandbox.updateContainer({ containerId: id, resourcesJson }, { timeoutMs }),
    );
    for (const warning of warnings) context.log.warn(warning, { id });
  },
});

function fromFile(path: string): Resources {
  const source = path === "-" ? "standard input" : path;
  let text: string;
  try {
    text = readFileSync(path === "-" ? 0 : path, "utf8");
  } catch (thrown) {
    throw toHearthError(thrown, `read resources ${source}`);
  }
  return parseResources(text, source);
}

function fromFlags(flags: FlagValues<typeof FLAGS>): Resources {
  for (const name of ["l3-cache-schema", "mem-bw-schema"] as const) {
    if (flags[name]) throw new HearthError("unimplemented", `use --${name}: Intel RDT is not supported`);
  }
  const number = (name: NumberFlag): bigint | undefined => {
    const text = flags[name];
    if (text === undefined) return undefined;
    if (!/^-?\d{1,19}$/.test(text)) {
      throw new HearthError("invalid-argument", `flag --${name} takes a whole number, got ${JSON.stringify(text)}`);
    }
    return BigInt(text);
  };
  const bytes = (name: SizeFlag): bigint | undefined => {
    const text = flags[name];
    const size = text === undefined ? undefined : byteSize(text);
    if (text !== undefined && size === undefined) {
      throw new HearthError("invalid-argument", `flag --${name} takes a size, got ${JSON.stringify(text)}`);
    }
    return size;
  };
  const cpu = present({
    period: number("cpu-period"),
    quota: number("cpu-quota"),
    burst: number("cpu-burst"),
    idle: number("cpu-idle"),
    shares: number("cpu-share"),
    realtimePeriod: number("cpu-rt-period"),
    realtimeRuntime: number("cpu-rt-runtime"),
    cpus: flags["cpuset-cpus"] || undefined,
    mems: flags["cpuset-mems"] || undefined,
  });
  const memory = present({
    limit: bytes("memory"),
    reservation: bytes("memory-reservation"),
    swap: bytes("memory-swap"),
    kernel: bytes("kernel-memory"),
    kernelTCP: bytes("kernel-memory-tcp"),
  });
  const pids = present({ limit: number("pids-limit") });
  const blockIO = present({ weight: number("blkio-weight") });
  const resources = present({ cpu, memory, pids, blockIO });
  if (resources === undefined) throw new HearthError("invalid-argument", "nothing to update: no limit was given");
  return resources;
}

/** The object without its undefined properties; undefined when nothing is left. */
function present<T extends Record<string, unknown>>(values: T): Partial<T> | undefined {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined);
  if (entries.length === 0) return undefined;
  // The same keys with the same values, only fewer.
  return Object.fromEntries(entries) as Partial<T>;
}
