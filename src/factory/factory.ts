/**
 * Where the runtime gets its VMs: from the pool when there is one, else a clone when there is a template, else booted. A
 * container never fails because the pool or the template did: whatever is wrong with them costs one warning.
 */
import type { HearthConfig } from "../config/config.ts";
import { DeadlineError, describeError, HearthError } from "../errors.ts";
import type { Log } from "../log.ts";
import { TemplateError, type TemplateProblem } from "../vm/template-store.ts";
import type { VmConfig, VmSize } from "../vm/vm-config.ts";
import type { BaseFactory, BaseVm } from "./base-factory.ts";
import { createDirectFactory } from "./direct.ts";
import { createGrpcCacheFactory, type GrpcCacheOptions, PoolMismatchError } from "./grpc-cache.ts";
import type { LaunchOptions } from "./launch.ts";
import { createTemplateFactory } from "./template.ts";

export interface FactoryOptions extends Omit<LaunchOptions, "mode" | "log" | "template"> {
  readonly log: Log;
  /** Undefined: no pool; grpc-js is not even loaded then. */
  readonly pool: GrpcCacheOptions | undefined;
  /** Where saved VMs are; undefined: templates are not enabled. */
  readonly templateDir: string | undefined;
}

/** As the configuration says; the pool is asked, for the size that is needed, when it has VMs by the configuration. */
export function factoryOptions({ factory, runtime }: HearthConfig, log: Log, need?: VmSize): FactoryOptions {
  const pool = { endpoint: factory.vm_cache_endpoint, timeoutMs: factory.vm_cache_timeout_ms, need };
  return {
    runDir: runtime.run_dir,
    leaseMs: factory.vm_cache_lease_ms,
    logLevel: runtime.log_level,
    log,
    pool: factory.vm_cache_number > 0 || factory.vm_cache_shapes.length > 0 ? pool : undefined,
    templateDir: factory.enable_template ? factory.template_path : undefined,
  };
}

/** Why the pool gave no VM; in the warning. */
export type PoolMiss = "absent" | "timeout" | "busy" | "mismatch" | "failing" | "not-adoptable";

export interface AdoptedVm<T> {
  readonly vm: BaseVm;
  /** What `adopt` returned. */
  readonly adopted: T;
}

export interface VmFactory {
  /** A leased VM: adopt it within the lease time or it ends. Fails when booting one fails, or with the signal's reason. */
  getVm(config: VmConfig, signal: AbortSignal): Promise<BaseVm>;
  /**
   * As getVm, with the adoption: a pooled or cloned VM that `adopt` fails on is replaced by a booted one, once; when that
   * one can be adopted, a clone's template counts as broken. `adopt` must leave nothing behind when it fails; a VM whose
   * possession is given up ends by itself.
   */
  getAdopted<T>(config: VmConfig, signal: AbortSignal, adopt: (vm: BaseVm) => Promise<T>): Promise<AdoptedVm<T>>;
}

export function createFactory(options: FactoryOptions): VmFactory {
  const { pool, templateDir, log, ...launch } = options;
  const leased = { ...launch, log, mode: "leased" } as const;
  const direct = createDirectFactory(leased);
  const pooled = pool === undefined ? undefined : createGrpcCacheFactory(pool);
  const template = templateDir === undefined ? undefined : createTemplateFactory(templateDir, leased);
  const getVm = async (config: VmConfig, signal: AbortSignal): Promise<BaseVm> => {
    checkSizes(config);
    return (
      (await fromPool(pooled, log, config, signal)) ??
      (await fromTemplate(template, log, config, signal)) ??
      (await direct.getBaseVm(config, signal))
    );
  };
  return {
    getVm,
    async getAdopted(config, signal, adopt) {
      const vm = await getVm(config, signal);
      try {
        return { vm, adopted: await adopt(vm) };
      } catch (thrown) {
        if (vm.source === "direct" || signal.aborted) throw thrown;
        if (vm.source === "pool") warnMiss(log, "not-adoptable", thrown);
        else warnBypass(log, "not-adoptable", thrown);
        const booted = await direct.getBaseVm(config, signal);
        const adopted = await adopt(booted);
        // What was asked of the clone was possible.
        if (vm.source === "template") template?.blame(vm, describeError(thrown));
        return { vm: booted, adopted };
      }
    },
  };
}

async function fromPool(
  pooled: BaseFactory | undefined,
  log: Log,
  config: VmConfig,
  signal: AbortSignal,
): Promise<BaseVm | undefined> {
  if (pooled === undefined) return undefined;
  try {
    return await pooled.getBaseVm(config, signal);
  } catch (thrown) {
    // The caller gave up; it does not want a VM from elsewhere either.
    if (signal.aborted) throw thrown;
    warnMiss(log, poolMiss(thrown), thrown);
    return undefined;
  }
}

/** Undefined after any failure but the caller's own giving up: a VM is booted then. */
export async function fromTemplate(
  template: BaseFactory | undefined,
  log: Log,
  config: VmConfig,
  signal: AbortSignal,
): Promise<BaseVm | undefined> {
  if (template === undefined) return undefined;
  try {
    return await template.getBaseVm(config, signal);
  } catch (thrown) {
    if (signal.aborted) throw thrown;
    warnBypass(log, thrown instanceof TemplateError ? thrown.problem : "failing", thrown);
    return undefined;
  }
}

/** Why no clone was made; in the warning. */
export type TemplateMiss = TemplateProblem | "failing" | "not-adoptable";

function warnBypass(log: Log, reason: TemplateMiss, thrown: unknown): void {
  log.warn("template gave no vm, booting one", { reason, error: describeError(thrown) });
}

function warnMiss(log: Log, reason: PoolMiss, thrown: unknown): void {
  log.warn("pool gave no vm, making one", { reason, error: describeError(thrown) });
}

export function poolMiss(thrown: unknown): PoolMiss {
  if (thrown instanceof PoolMismatchError) return "mismatch";
  if (thrown instanceof DeadlineError) return "timeout";
  if (!(thrown instanceof HearthError)) return "failing";
  if (thrown.code === "unavailable") return "absent";
  return thrown.code === "resource-exhausted" ? "busy" : "failing";
}

function checkSizes(config: VmConfig): void {
  const { vcpus, maxVcpus, memoryMib, maxMemoryMib } = config;
  if (vcpus < 1 || vcpus > maxVcpus) {
    throw new HearthError("invalid-argument", `make vm: ${vcpus} vcpus, and at most ${maxVcpus} are allowed`);
  }
  if (memoryMib < 1 || memoryMib > maxMemoryMib) {
    throw new HearthError("invalid-argument", `make vm: ${memoryMib} MiB, and at most ${maxMemoryMib} are allowed`);
  }
}
