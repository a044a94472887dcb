/** `update`: changes the limits of a running container, from JSON or from flags. */
import { readFileSync } from "node:fs";
import { HearthError, toHearthError } from "../../errors.ts";
import { canSignal, statusOf } from "../../oci/container-record.ts";
import { lockContainer } from "../../oci/container-store.ts";
import { parseResources, type Resources, stringifySpec } from "../../oci/spec.ts";
import type { FlagValues } from "../flags.ts";
import { defineRuntimeCommand, onlyContainerId } from "./command.ts";
import { lockTimeoutMs, withSandbox } from "./with-sandbox.ts";

const FLAGS = {
  resources: { type: "string", short: "r", value: "FILE", help: "OCI linux.resources as JSON; - is standard input" },
  "cpu-period": { type: "string", value: "US", help: "CPU period in microseconds" },
  "cpu-quota": { type: "string", value: "US", help: "CPU time in each period in microseconds" },
  "cpu-share": { type: "string", value: "N", help: "CPU shares" },
  memory: { type: "string", value: "BYTES", help: "memory limit" },
  "memory-reservation": { type: "string", value: "BYTES", help: "soft memory limit" },
  "memory-swap": { type: "string", value: "BYTES", help: "limit of memory and swap" },
  "pids-limit": { type: "string", value: "N", help: "most processes" },
} as const;

export const command = defineRuntimeCommand({
  flags: FLAGS,
  positionals: "<container-id>",
  async run(context, flags, positionals) {
    const id = onlyContainerId(positionals);
    const resources = flags.resources === undefined ? fromFlags(flags) : fromFile(flags.resources);
    await using container = await lockContainer(await context.root(), id, await lockTimeoutMs(context));
    if (!canSignal(statusOf(container.record))) {
      throw new HearthError("failed-precondition", `container not running: ${id}`, { facts: { id } });
    }
    const resourcesJson = new TextEncoder().encode(stringifySpec(resources));
    await withSandbox(context, container.record, (sandbox, timeoutMs) =>
      sandbox.updateContainer({ containerId: id, resourcesJson }, { timeoutMs }),
    );
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
  const number = (name: Exclude<keyof typeof FLAGS, "resources">): bigint | undefined => {
    const text = flags[name];
    if (text === undefined) return undefined;
    if (!/^-?\d{1,19}$/.test(text)) {
      throw new HearthError("invalid-argument", `flag --${name} takes a whole number, got ${JSON.stringify(text)}`);
    }
    return BigInt(text);
  };
  const cpu = present({ period: number("cpu-period"), quota: number("cpu-quota"), shares: number("cpu-share") });
  const memory = present({
    limit: number("memory"),
    reservation: number("memory-reservation"),
    swap: number("memory-swap"),
  });
  const pids = present({ limit: number("pids-limit") });
  const resources = present({ cpu, memory, pids });
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
