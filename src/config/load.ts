/** Finds, reads and checks the configuration: one file (with drop-ins at the default place), or the defaults. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { HearthError, isErrnoException, toHearthError } from "../errors.ts";
import { POOL_VMS_MAX } from "../limits.ts";
import { DEFAULT_CONFIG_PATH, defaultCacheSocket, defaultMetricsSocket, defaultTemplateDir } from "../paths.ts";
import type { HearthConfig } from "./config.ts";
import { DEFAULT_CONFIG } from "./defaults.ts";
import type { ConfigFile } from "./schema.ts";

export interface ConfigSource {
  /** Value of `--config`; wins over everything. */
  readonly flag: string | undefined;
  /** Value of HEARTH_CONFIG. */
  readonly environment: string | undefined;
  /** Default DEFAULT_CONFIG_PATH; its drop-ins are in `config.d` beside it. */
  readonly defaultPath?: string;
}

/**
 * The files that make up the configuration, in the order in which they are merged. A file that was named must exist;
 * the default file and its drop-ins may be missing.
 */
export function configFiles(source: ConfigSource): readonly { readonly path: string; readonly required: boolean }[] {
  const named = source.flag ?? (source.environment === "" ? undefined : source.environment);
  if (named !== undefined) return [{ path: named, required: true }];
  const path = source.defaultPath ?? DEFAULT_CONFIG_PATH;
  return [{ path, required: false }, ...dropIns(join(dirname(path), "config.d"))];
}

/** Paths in whose directories all files of the configuration are, those that may still come included. */
export function configPlaces(source: ConfigSource): string[] {
  const paths = configFiles(source).map(({ path }) => path);
  const isDefault = paths[0] === (source.defaultPath ?? DEFAULT_CONFIG_PATH);
  return isDefault ? [...paths, join(dirname(paths[0] ?? ""), "config.d", "*.toml")] : paths;
}

function dropIns(dir: string): { path: string; required: boolean }[] {
  let names: string[];
  try {
    names = readdirSync(dir);
  } catch (thrown) {
    if (isErrnoException(thrown) && thrown.code === "ENOENT") return [];
    throw toHearthError(thrown, `read configuration directory ${dir}`);
  }
  const files = names.filter((name) => name.endsWith(".toml") && !name.startsWith("."));
  return files.sort().map((name) => ({ path: join(dir, name), required: true }));
}

/**
 * The configuration. Fails with invalid-argument naming file, line and column (malformed TOML) or the key (unknown,
 * of the wrong type, out of range), and with not-found when a named file is missing.
 */
export async function loadConfig(source: ConfigSource): Promise<HearthConfig> {
  let merged: ConfigFile | undefined;
  for (const { path, required } of configFiles(source)) {
    const text = readConfigText(path, required);
    if (text === undefined) continue;
    const { parseConfigFile } = await import("./parse.ts");
    merged = mergeFiles(merged ?? {}, parseConfigFile(text, path));
  }
  return merged === undefined ? DEFAULT_CONFIG : withDefaults(merged);
}

function readConfigText(path: string, required: boolean): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (thrown) {
    if (!required && isErrnoException(thrown) && thrown.code === "ENOENT") return undefined;
    throw toHearthError(thrown, `read configuration ${path}`);
  }
}

/** Later files win key by key. */
export function mergeFiles(base: ConfigFile, over: ConfigFile): ConfigFile {
  return {
    hypervisor: { qemu: { ...base.hypervisor?.qemu, ...over.hypervisor?.qemu } },
    factory: { ...base.factory, ...over.factory },
    runtime: { ...base.runtime, ...over.runtime },
  };
}

/** Fills in what the files leave out; the pool's sockets and the templates follow `run_dir`. Fails when keys contradict each other. */
export function withDefaults(file: ConfigFile): HearthConfig {
  const runtime = { ...DEFAULT_CONFIG.runtime, ...file.runtime };
  const config: HearthConfig = {
    hypervisor: { ...DEFAULT_CONFIG.hypervisor, ...file.hypervisor?.qemu },
    factory: {
      ...DEFAULT_CONFIG.factory,
      vm_cache_endpoint: defaultCacheSocket(runtime.run_dir),
      vm_cache_metrics_endpoint: defaultMetricsSocket(runtime.run_dir),
      template_path: defaultTemplateDir(runtime.run_dir),
      ...file.factory,
    },
    runtime,
  };
  checkTogether(config);
  return config;
}

/** Fails with invalid-argument when keys contradict each other. */
function checkTogether({ hypervisor, factory }: HearthConfig): void {
  const { default_vcpus, default_maxvcpus, default_memory, default_maxmemory } = hypervisor;
  notLess("hypervisor.qemu.default_maxvcpus", default_maxvcpus, "default_vcpus", default_vcpus);
  notLess("hypervisor.qemu.default_maxmemory", default_maxmemory, "default_memory", default_memory);
  notLess(
    "factory.vm_cache_backoff_max_ms",
    factory.vm_cache_backoff_max_ms,
    "vm_cache_backoff_ms",
    factory.vm_cache_backoff_ms,
  );
  checkShapes(factory, hypervisor);
}

function checkShapes(factory: HearthConfig["factory"], hypervisor: HearthConfig["hypervisor"]): void {
  const sizes = new Set<string>();
  let total = 0;
  for (const [index, { vcpus, memory, number }] of factory.vm_cache_shapes.entries()) {
    const name = `vm_cache_shapes[${index}]`;
    notLess("hypervisor.qemu.default_maxvcpus", hypervisor.default_maxvcpus, `factory.${name}.vcpus`, vcpus);
    notLess("hypervisor.qemu.default_maxmemory", hypervisor.default_maxmemory, `factory.${name}.memory`, memory);
    notLess("factory.vm_cache_memory_max", factory.vm_cache_memory_max, `${name}.memory`, memory);
    if (sizes.has(`${vcpus} ${memory}`)) {
      throw contradiction(`factory.${name} is another shape's size: ${vcpus} vCPUs, ${memory} MiB`);
    }
    sizes.add(`${vcpus} ${memory}`);
    total += number;
  }
  if (total > POOL_VMS_MAX) throw contradiction(`factory.vm_cache_shapes have ${total} VMs, more than ${POOL_VMS_MAX}`);
  if (sizes.size === 0 && factory.vm_cache_number > 0) {
    notLess("factory.vm_cache_memory_max", factory.vm_cache_memory_max, "default_memory", hypervisor.default_memory);
  }
  checkGuestFiles(hypervisor);
}

/** The modules in initrd and image are those of one kernel: a guest that mixes builds does not boot, and cannot say why. */
function checkGuestFiles({ kernel, initrd, image }: HearthConfig["hypervisor"]): void {
  const names = (given: boolean): string[] =>
    Object.entries({ kernel, initrd, image }).flatMap(([key, path]) => ((path !== "") === given ? [key] : []));
  if (names(true).length === 0 || names(false).length === 0) return;
  throw new HearthError(
    "invalid-argument",
    `check configuration: hypervisor.qemu.${names(true).join(" and ")} set without ${names(false).join(" and ")}: they belong together`,
    { hint: "those of the guest carried in the executable are below guest/ of [runtime] data_dir" },
  );
}

/** A `bound` of 0 is none. */
function notLess(boundKey: string, bound: number, key: string, value: number): void {
  if (bound !== 0 && bound < value) throw contradiction(`${boundKey} ${bound} is less than ${key} ${value}`);
}

function contradiction(what: string): HearthError {
  return new HearthError("invalid-argument", `check configuration: ${what}`);
}
