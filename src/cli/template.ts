/** `hearth template init|status|destroy`: saved VMs that others are cloned of, from their operator's side. */
import { statfsSync } from "node:fs";
import type { HearthConfig } from "../config/config.ts";
import { loadConfig } from "../config/load.ts";
import { HearthError } from "../errors.ts";
import { createLog, silentLog } from "../log.ts";
import { resolveVmConfig } from "../vm/resolve-config.ts";
import { listTemplates, type TemplateStatus } from "../vm/template-store.ts";
import { identityDigest, type VmConfig } from "../vm/vm-config.ts";
import { type FlagTable, parseFlags } from "./flags.ts";
import { defineHostCommand } from "./main.ts";
import { formatTable, writeOut } from "./output.ts";
import { refusePositionals } from "./usage-error.ts";

const INIT_FLAGS = {
  force: { type: "boolean", help: "make it anew though there is a good one" },
} as const satisfies FlagTable;
const STATUS_FLAGS = { json: { type: "boolean", help: "print JSON" } } as const satisfies FlagTable;

export const command = defineHostCommand({
  flags: {},
  positionals: "<init|status|destroy>",
  async run(context, _flags, [action, ...args]) {
    const config = await loadConfig({ flag: context.configPath, environment: process.env["HEARTH_CONFIG"] });
    switch (action) {
      case "init": {
        const { flags, rest } = parseFlags(INIT_FLAGS, args);
        refusePositionals(rest);
        return await init(config, flags.force);
      }
      case "status": {
        const { flags, rest } = parseFlags(STATUS_FLAGS, args);
        refusePositionals(rest);
        return await printStatus(config, flags.json);
      }
      case "destroy":
        refusePositionals(args);
        return await destroy(config);
      default:
        throw new HearthError("invalid-argument", `say init, status or destroy, not ${JSON.stringify(action ?? "")}`);
    }
  },
});

/** Aborts at the signals that end a command. */
function stopSignal(): AbortSignal {
  const stop = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
    process.on(signal, () => stop.abort(new HearthError("cancelled", `ended by ${signal}`)));
  }
  return stop.signal;
}

/** The log goes to standard error. */
async function init(config: HearthConfig, force: boolean): Promise<number> {
  const { ensureTemplate } = await import("../factory/build-template.ts");
  const { factory, runtime } = config;
  const log = createLog({ level: runtime.log_level, format: "text" });
  if (!factory.enable_template) log.warn("template is not used", { hint: "set [factory] enable_template = true" });
  if (!isOnTmpfs(factory.template_path)) {
    log.warn("template is not on tmpfs, so its memory is written to a disk", { template_path: factory.template_path });
  }
  const options = {
    templateDir: factory.template_path,
    runDir: runtime.run_dir,
    logLevel: runtime.log_level,
    log,
    force,
  };
  const signal = stopSignal();
  for (const vmConfig of shapesOf(config, await resolveVmConfig(config, log))) {
    const { built } = await ensureTemplate(options, vmConfig, signal);
    const id = shortened(identityDigest(vmConfig));
    await writeOut(built ? `template ${id} made\n` : `template ${id} is there already\n`);
  }
  return 0;
}

/** The VMs that the runtime and the pool want: of the default size, and of each of the pool's shapes. */
function shapesOf({ factory }: HearthConfig, vm: VmConfig): VmConfig[] {
  const shapes = factory.vm_cache_shapes.map(({ vcpus, memory }) => ({ ...vm, vcpus, memoryMib: memory }));
  const byIdentity = new Map([vm, ...shapes].map((config) => [identityDigest(config), config]));
  return [...byIdentity.values()];
}

async function destroy({ factory, runtime }: HearthConfig): Promise<number> {
  const { destroyTemplates } = await import("../factory/build-template.ts");
  const log = createLog({ level: runtime.log_level, format: "text" });
  const options = { templateDir: factory.template_path, runDir: runtime.run_dir, log };
  const removed = await destroyTemplates(options, stopSignal());
  await writeOut(
    removed.length === 0 ? "no template\n" : removed.map((id) => `template ${shortened(id)} removed\n`).join(""),
  );
  return 0;
}

interface ShownTemplate extends Omit<TemplateStatus, "record"> {
  /** VMs of the configuration in force are cloned of it. */
  readonly current: boolean;
  readonly kind: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly qemuVersion: string;
  readonly createdAtMs: number;
}

async function printStatus(config: HearthConfig, json: boolean): Promise<number> {
  const { enable_template: enabled, template_path: path } = config.factory;
  const vmConfig = await resolveVmConfig(config, silentLog);
  const wanted = shapesOf(config, vmConfig).map(identityDigest);
  const templates = listTemplates(path, vmConfig).map((template) => shown(template, wanted));
  const usable = readyOf(templates) === wanted.length;
  const status = { enabled, path, onTmpfs: isOnTmpfs(path), wanted, usable, templates };
  await writeOut(json ? `${JSON.stringify(status, null, 2)}\n` : statusText(status));
  return 0;
}

function shown({ record, ...status }: TemplateStatus, wanted: readonly string[]): ShownTemplate {
  return {
    ...status,
    current: wanted.includes(status.identity),
    kind: record?.kind ?? "",
    vcpus: record?.vcpus ?? 0,
    memoryMib: record?.memoryMib ?? 0,
    qemuVersion: record?.qemuVersion ?? "",
    createdAtMs: record?.createdAtMs ?? 0,
  };
}

const MIB = 1024 * 1024;

function statusText(status: {
  readonly enabled: boolean;
  readonly path: string;
  readonly onTmpfs: boolean;
  /** Identities: of the default size, and of each of the pool's shapes. */
  readonly wanted: readonly string[];
  /** All of them can be cloned. */
  readonly usable: boolean;
  readonly templates: readonly ShownTemplate[];
}): string {
  const facts = formatTable([
    ["enabled", status.enabled ? "yes" : "no"],
    ["path", status.onTmpfs ? status.path : `${status.path}, not on tmpfs`],
    ["for the configuration in force", usableText(readyOf(status.templates), status.wanted.length)],
  ]);
  const rows = status.templates.map((template) => [
    template.identity === "" ? "-" : `${shortened(template.identity)}${template.current ? " *" : ""}`,
    template.state,
    template.kind,
    `${template.vcpus}`,
    `${template.memoryMib}`,
    `${Math.round(template.allocatedBytes / MIB)}`,
    template.reason,
  ]);
  if (rows.length === 0) return facts;
  return `${facts}\n${formatTable([["TEMPLATE", "STATE", "KIND", "VCPUS", "MIB", "MIB USED", "REASON"], ...rows])}`;
}

/** How many can be cloned of those that are wanted. */
function readyOf(templates: readonly ShownTemplate[]): number {
  return templates.filter(({ current, state }) => current && state === "ready").length;
}

function usableText(ready: number, wanted: number): string {
  if (ready === 0) return "none that can be used: VMs are booted";
  return ready === wanted ? "ready" : `${ready} of ${wanted} sizes: VMs of the others are booted`;
}

function shortened(identity: string): string {
  return identity.slice(0, 12);
}

/** Source: linux/magic.h. */
const TMPFS_MAGIC = 0x01021994;

/** The directory itself may not exist yet: its nearest existing parent tells where it will be. */
function isOnTmpfs(path: string): boolean {
  for (let dir = path; ; dir = dir.replace(/\/[^/]*$/, "") || "/") {
    try {
      return statfsSync(dir).type === TMPFS_MAGIC;
    } catch (thrown) {
      if (dir === "/") throw thrown;
    }
  }
}
