/**
 * The pool: a cache of VMs for each shape, side by side, under one budget of boots and memory. A claim gets the shape
 * that fits best. Its settings may change while it runs; then only what no longer matches is ended.
 */
import { assert, HearthError, toHearthError } from "../errors.ts";
import { POOL_LOOK_INTERVAL_MS, SUSPENSION_MS_MIN } from "../limits.ts";
import { type Log, silentLog } from "../log.ts";
import { clockNanoseconds } from "../sys/clock.ts";
import { identityDigest, type VmConfig, type VmSize } from "../vm/vm-config.ts";
import { BootBudget, type BudgetLimits } from "./boot-budget.ts";
import { ShapeGoneError, VmCache } from "./cache.ts";
import { type CacheCounters, CacheCounts, type CacheEvent, type MissReason } from "./cache-event.ts";
import type { CacheParts, CacheSettings, HandedOutVm } from "./cache-parts.ts";
import type { SlotStatus } from "./cache-slot.ts";
import type { IdleVm } from "./idle-vm.ts";

export interface PoolShape {
  readonly config: VmConfig;
  /** VMs kept ready, 1 or more. */
  readonly number: number;
}

export interface PoolSettings extends BudgetLimits, Omit<CacheSettings, "number"> {
  /** At least one, of different sizes and else alike. The first serves claims that name no size. */
  readonly shapes: readonly PoolShape[];
  /** Where saved VMs are that the pool's are clones of, made by the server when needed; undefined: they are booted. */
  readonly templateDir?: string | undefined;
}

export interface VmPoolOptions
  extends Pick<CacheParts, "runDir" | "base" | "kill" | "leaseTimeoutMs" | "stableMs" | "provenMs"> {
  readonly settings: PoolSettings;
  readonly log?: Log;
  readonly onEvent?: ((event: CacheEvent) => void) | undefined;
  /** Milliseconds between two looks at which VMs are due for a check. */
  readonly lookIntervalMs?: number | undefined;
  /** Milliseconds that the host was suspended since it booted. */
  readonly suspendedMs?: (() => number) | undefined;
}

/** A shape as an operator sees it. */
export interface ShapeStatus extends VmSize {
  readonly name: string;
  readonly number: number;
  readonly idle: number;
  readonly booting: number;
  readonly waiting: number;
  /** Hex digest of its VMs. */
  readonly identity: string;
}

export class VmPool implements AsyncDisposable {
  readonly #log: Log;
  readonly #counts = new CacheCounts();
  readonly #budget: BootBudget;
  readonly #parts: CacheParts;
  readonly #suspendedMs: () => number;
  readonly #lookIntervalMs: number;
  #lookTimer: ReturnType<typeof setInterval> | undefined;
  /** In the order of the settings. */
  #caches: readonly VmCache[];
  /** Shapes that were taken out and whose VMs are being ended. */
  readonly #draining = new Map<VmCache, Promise<void>>();
  #settings: PoolSettings;
  #suspendedBeforeMs: number;
  #started = false;
  #closed: Promise<void> | undefined;

  constructor(options: VmPoolOptions) {
    const { settings, runDir, base, kill, leaseTimeoutMs, stableMs, provenMs } = options;
    this.#log = options.log ?? silentLog;
    this.#settings = settings;
    this.#budget = new BootBudget(settings);
    this.#parts = {
      runDir,
      base,
      kill,
      leaseTimeoutMs,
      stableMs,
      provenMs,
      log: this.#log,
      onEvent: options.onEvent ?? (() => {}),
      counts: this.#counts,
      budget: this.#budget,
    };
    this.#caches = settings.shapes.map((shape) => this.#cacheOf(shape));
    assert(this.#caches.length > 0, "a pool without shapes");
    this.#suspendedMs = options.suspendedMs ?? suspendedMs;
    this.#suspendedBeforeMs = this.#suspendedMs();
    this.#lookIntervalMs = options.lookIntervalMs ?? POOL_LOOK_INTERVAL_MS;
    this.#lookRegularly();
  }

  /** Begins to boot. What `adopt` took before needs no boot. */
  start(): void {
    this.#started = true;
    this.#setBudget();
    this.#budget.pump();
  }

  /** Takes in an idle VM that is there already. False when no slot of its shape is free; it is then still the caller's. */
  adopt(vm: IdleVm): boolean {
    return this.#caches.some((cache) => cache.identity === vm.facts.identity && cache.adopt(vm));
  }

  get counters(): CacheCounters {
    return { ...this.#counts, misses: { ...this.#counts.misses } };
  }

  get settings(): PoolSettings {
    return this.#settings;
  }

  get slots(): SlotStatus[] {
    return [...this.#caches, ...this.#draining.keys()].flatMap(({ slots }) => slots);
  }

  get shapes(): ShapeStatus[] {
    return this.#caches.map(({ shape, identity, config, settings, slots, waiting }) => {
      const count = (...states: SlotStatus["state"][]): number =>
        slots.filter(({ state }) => states.includes(state)).length;
      return {
        name: shape,
        vcpus: config.vcpus,
        memoryMib: config.memoryMib,
        number: settings.number,
        idle: count("idle", "checking"),
        booting: count("booting"),
        waiting,
        identity,
      };
    });
  }

  /** MiB of all VMs of the pool, idle and booting. */
  get memoryMib(): number {
    return this.#budget.memoryMib;
  }

  /** Claims waiting now. */
  get waiting(): number {
    return this.#caches.reduce((sum, { waiting }) => sum + waiting, 0);
  }

  countMiss(reason: MissReason): void {
    this.#counts.misses[reason] += 1;
  }

  /** What a claim for this size is made from; without one the first shape. */
  configFor(need?: VmSize): VmConfig {
    return this.#bestFit(need).config;
  }

  /**
   * A leased VM of the shape that fits best. Waits in line until one is idle; "resource-exhausted" when too many wait
   * already, "unavailable" when the pool is ending, the signal's reason when it aborts.
   */
  async take(signal: AbortSignal, need?: VmSize): Promise<HandedOutVm> {
    try {
      this.#noticeSuspension();
      for (;;) {
        try {
          const vm = await this.#bestFit(need).take(signal);
          this.#counts.hits += 1;
          return vm;
        } catch (thrown) {
          if (!(thrown instanceof ShapeGoneError) || signal.aborted) throw thrown;
        }
      }
    } catch (thrown) {
      this.countMiss(missReason(thrown, signal));
      throw toHearthError(thrown, "claim pooled vm");
    }
  }

  /** From now on the pool is kept so. VMs that fit no shape any more, or are too many, are ended; the others stay. */
  apply(settings: PoolSettings): void {
    if (this.#closed !== undefined) return;
    assert(settings.shapes.length > 0, "a pool without shapes");
    this.#settings = settings;
    this.#lookRegularly();
    const gone = new Map(this.#caches.map((cache) => [cache.identity, cache]));
    this.#caches = settings.shapes.map((shape) => {
      const identity = identityDigest(shape.config);
      const kept = gone.get(identity);
      if (kept === undefined) return this.#cacheOf(shape);
      gone.delete(identity);
      kept.configure(shape.config, { ...settings, number: shape.number });
      return kept;
    });
    for (const cache of gone.values()) this.#drain(cache);
    if (!this.#started) return;
    this.#setBudget();
    this.#fitMemory();
    this.#budget.pump();
  }

  /** No new hand-outs; waiting claims fail; boots are ended and idle VMs destroyed. Idempotent. */
  close(): Promise<void> {
    clearInterval(this.#lookTimer);
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    const reason = new HearthError("unavailable", "claim pooled vm: the pool is shutting down");
    await Promise.all([...this.#caches.map((cache) => cache.close(reason)), ...this.#draining.values()]);
  }

  #cacheOf({ config, number }: PoolShape): VmCache {
    return new VmCache(config, { ...this.#settings, number }, this.#parts);
  }

  /** VMs that are being ended have their memory until they are. */
  #setBudget(): void {
    this.#budget.set(this.#settings, [...this.#caches, ...this.#draining.keys()]);
  }

  #drain(cache: VmCache): void {
    this.#log.info("shape taken out", { shape: cache.shape, identity: cache.identity });
    const error = new ShapeGoneError("unavailable", `claim pooled vm: shape ${cache.shape} was taken out of the pool`);
    this.#draining.set(
      cache,
      cache.close(error).finally(() => {
        this.#draining.delete(cache);
        if (this.#started) this.#setBudget();
        this.#budget.pump();
      }),
    );
  }

  /** The last shapes give first. */
  #fitMemory(): void {
    for (const cache of this.#caches.toReversed()) {
      while (this.#budget.excessMib > 0 && cache.giveUpOne());
    }
  }

  #bestFit(need: VmSize | undefined): VmCache {
    const found = bestFit(this.#caches, need);
    assert(found !== undefined, "a pool without shapes");
    return found;
  }

  #lookRegularly(): void {
    clearInterval(this.#lookTimer);
    this.#lookTimer = setInterval(() => this.#look(), this.#lookMs);
  }

  get #lookMs(): number {
    return Math.min(this.#lookIntervalMs, this.#settings.checkIntervalMs);
  }

  #look(): void {
    this.#noticeSuspension();
    for (const cache of this.#caches) cache.look(this.#lookMs);
  }

  /** A host that slept may have lost what its VMs need: all of them have to prove that they live. */
  #noticeSuspension(): void {
    const now = this.#suspendedMs();
    const sleptMs = now - this.#suspendedBeforeMs;
    this.#suspendedBeforeMs = now;
    if (sleptMs < SUSPENSION_MS_MIN) return;
    this.#counts.suspensions += 1;
    this.#log.warn("host was suspended, checking all vms", { sleptMs: Math.round(sleptMs) });
    for (const cache of this.#caches) {
      cache.distrust();
      cache.look(this.#lookMs);
    }
  }
}

/** The smallest that is at least what is needed, else the largest; the first without a need. Memory counts before vCPUs. */
export function bestFit<Shape extends { readonly config: VmSize }>(
  shapes: readonly Shape[],
  need: VmSize | undefined,
): Shape | undefined {
  if (need === undefined) return shapes[0];
  const bySize = shapes.toSorted(({ config: a }, { config: b }) => a.memoryMib - b.memoryMib || a.vcpus - b.vcpus);
  const fits = bySize.find(({ config }) => config.memoryMib >= need.memoryMib && config.vcpus >= need.vcpus);
  return fits ?? bySize.at(-1);
}

function missReason(thrown: unknown, signal: AbortSignal): MissReason {
  if (signal.aborted) return "gave-up";
  return thrown instanceof HearthError && thrown.code === "resource-exhausted" ? "queue-full" : "closed";
}

function suspendedMs(): number {
  return Number((clockNanoseconds("boottime") - clockNanoseconds("monotonic")) / 1_000_000n);
}
