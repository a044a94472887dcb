/** `hearth vmcache serve|status|stop`: the pool of VMs kept warm, from its operator's side. */
import type { HearthConfig } from "../config/config.ts";
import { DEFAULT_CONFIG } from "../config/defaults.ts";
import { loadConfig } from "../config/load.ts";
import { HearthError } from "../errors.ts";
import { POOL_VMS_MAX } from "../limits.ts";
import type { PoolSlotStatus, PoolStatus, PoolVmStatus } from "../vmcache/control.ts";
import { type FlagTable, parseFlags } from "./flags.ts";
import { defineHostCommand } from "./main.ts";
import { formatTable, writeOut } from "./output.ts";
import { refusePositionals } from "./usage-error.ts";

const ENDPOINT = { type: "string", value: "SOCKET", help: "unix socket (default: vm_cache_endpoint)" } as const;
const SERVE_FLAGS = {
  endpoint: ENDPOINT,
  number: { type: "string", short: "n", value: "N", help: "VMs kept ready (default: vm_cache_number)" },
} as const satisfies FlagTable;
const STATUS_FLAGS = {
  endpoint: ENDPOINT,
  json: { type: "boolean", help: "print JSON" },
} as const satisfies FlagTable;
const STOP_FLAGS = { endpoint: ENDPOINT } as const satisfies FlagTable;

interface ServerPlace {
  readonly endpoint: string;
  /** How long its answer is waited for: systemd may be starting it just now. */
  readonly timeoutMs: number;
}

export const command = defineHostCommand({
  flags: {},
  positionals: "<serve|status|stop>",
  async run(context, _flags, [action, ...args]) {
    const { configPath } = context;
    const placeOf = async (flag: string | undefined): Promise<ServerPlace> => {
      // A server can be asked though the configuration has become wrong since.
      if (flag !== undefined) return { endpoint: flag, timeoutMs: DEFAULT_CONFIG.runtime.request_timeout_ms };
      const { factory, runtime } = await loadConfig({ flag: configPath, environment: process.env["HEARTH_CONFIG"] });
      return { endpoint: factory.vm_cache_endpoint, timeoutMs: runtime.request_timeout_ms };
    };
    switch (action) {
      case "serve": {
        const { flags, rest } = parseFlags(SERVE_FLAGS, args);
        refusePositionals(rest);
        const { servePool } = await import("./serve-pool.ts");
        return await servePool({ configPath, withFlags: (config) => withFlags(config, flags) });
      }
      case "status": {
        const { flags, rest } = parseFlags(STATUS_FLAGS, args);
        refusePositionals(rest);
        return await printStatus(await placeOf(flags.endpoint), flags.json);
      }
      case "stop": {
        const { flags, rest } = parseFlags(STOP_FLAGS, args);
        refusePositionals(rest);
        const { stopVmCache } = await import("../vmcache/control.ts");
        const { endpoint, timeoutMs } = await placeOf(flags.endpoint);
        await stopVmCache(endpoint, timeoutMs);
        return 0;
      }
      default:
        throw new HearthError("invalid-argument", `say serve, status or stop, not ${JSON.stringify(action ?? "")}`);
    }
  },
});

function withFlags(
  config: HearthConfig,
  flags: { readonly number: string | undefined; readonly endpoint: string | undefined },
): HearthConfig {
  const factory = { ...config.factory };
  if (flags.endpoint !== undefined) factory.vm_cache_endpoint = flags.endpoint;
  if (flags.number !== undefined) {
    if (factory.vm_cache_shapes.length > 0) {
      throw new HearthError(
        "invalid-argument",
        "--number is for a pool of one size, and vm_cache_shapes are configured",
      );
    }
    factory.vm_cache_number = parseCount(flags.number);
  }
  return { ...config, factory };
}

function parseCount(text: string): number {
  const count = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (count >= 1 && count <= POOL_VMS_MAX) return count;
  throw new HearthError("invalid-argument", `--number must be 1 to ${POOL_VMS_MAX}, got ${JSON.stringify(text)}`);
}

async function printStatus({ endpoint, timeoutMs }: ServerPlace, json: boolean): Promise<number> {
  const { vmCacheStatus } = await import("../vmcache/control.ts");
  const status = await vmCacheStatus(endpoint, timeoutMs);
  await writeOut(json ? `${JSON.stringify(status, null, 2)}\n` : statusText(status));
  return 0;
}

function statusText(status: PoolStatus): string {
  const { boots, bootFailures, losses, retired, drained, suspensions, adopted, memoryMib, memoryMaxMib } = status;
  const facts = formatTable([
    ["server", `pid ${status.pid}, ${status.version}`],
    ...(status.configError === "" ? [] : [["configuration", `refused: ${status.configError}`]]),
    ["idle", String(status.idle.length)],
    ["waiting claims", String(status.waiting)],
    ["hits", String(status.hits)],
    ["misses", String(status.misses)],
    ["boots", `${boots}, ${bootFailures} failed, ${adopted} adopted`],
    ["ended", `${losses} lost, ${retired} retired, ${drained} drained`],
    ...(suspensions === 0 ? [] : [["host suspended", `${suspensions} times`]]),
    ["memory", `${memoryMib} MiB${memoryMaxMib === 0 ? "" : ` of ${memoryMaxMib}`}`],
  ]);
  const shapes = status.shapes.map(({ name, number, idle, booting, waiting }) =>
    [name, number, idle, booting, waiting].map(String),
  );
  const row = (vm: PoolVmStatus) => [
    vm.id,
    vm.state,
    String(vm.qemuPid),
    String(vm.vcpus),
    String(vm.memoryMib),
    `${Math.round(vm.ageMs / 1000)} s`,
  ];
  const vms = [...status.idle, ...status.handedOut].map(row);
  const slots = status.slots.filter((slot) => slot.state !== "idle").map(slotRow);
  return [
    facts,
    formatTable([["SHAPE", "WANTED", "IDLE", "BOOTING", "WAITING"], ...shapes]),
    formatTable([["VM", "STATE", "QEMU", "VCPUS", "MIB", "AGE"], ...vms]),
    ...(slots.length === 0 ? [] : [formatTable([["SLOT", "STATE", "STEP", "FAILURES", "RETRY", "ERROR"], ...slots])]),
  ].join("\n");
}

function slotRow({ shape, index, state, step, failures, retryInMs, lastError }: PoolSlotStatus): string[] {
  const retry = state === "backing-off" ? `in ${Math.ceil(retryInMs / 1000)} s` : "";
  return [`${shape}/${index}`, state, step, String(failures), retry, lastError];
}
