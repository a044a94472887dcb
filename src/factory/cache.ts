/**
 * The cache factory: keeps a number of VMs booted, rehearsed and paused over a base factory and gives each away once.
 * Every slot refills by itself and backs off by itself: a failed boot never closes the pool.
 */
import { describeError, HearthError, toHearthError } from "../errors.ts";
import {
  POOL_BOOTS_AT_ONCE_DEFAULT,
  POOL_QUEUE_LENGTH_MAX,
  SLOT_BACKOFF_MS_MAX,
  SLOT_BACKOFF_MS_MIN,
  VM_CHECK_INTERVAL_MS,
  VM_CHECK_TIMEOUT_MS,
  VM_LEASE_TIMEOUT_MS,
  VM_STABLE_MS,
} from "../limits.ts";
import { type Log, silentLog } from "../log.ts";
import { RemoteError } from "../rpc/status.ts";
import type { VmConfig } from "../vm/vm-config.ts";
import { backoffMs } from "./backoff.ts";
import type { BaseFactory } from "./base-factory.ts";
import { Slot, type SlotState, type SlotStatus, slotStatus } from "./cache-slot.ts";
import { ClaimQueue } from "./claim-queue.ts";
import { connectIdleVm, endSandboxProcess, type IdleVm, type IdleVmFacts, type VmLease } from "./idle-vm.ts";
import { newToken } from "./launch.ts";

/** What happened, for progress displays; the log says the same. */
export type CacheEvent =
  | { readonly kind: "booting"; readonly slot: number }
  | { readonly kind: "step"; readonly slot: number; readonly step: string }
  | { readonly kind: "ready"; readonly slot: number; readonly vmId: string; readonly bootMs: number }
  | { readonly kind: "failed"; readonly slot: number; readonly error: HearthError; readonly retryMs: number }
  | { readonly kind: "lost"; readonly slot: number; readonly vmId: string; readonly error: HearthError }
  | { readonly kind: "handed-out"; readonly slot: number; readonly vmId: string };

/** Reports the steps of a boot that is under way. */
export type OnBootStep = (vmId: string, step: string) => void;

export interface CacheOptions {
  /** VMs kept ready, 1 or more. */
  readonly slots: number;
  readonly config: VmConfig;
  readonly runDir: string;
  /** Makes the base factory of one boot; its VMs must come in mode "idle". */
  readonly base: (onStep: OnBootStep) => BaseFactory;
  readonly leaseMs: number;
  readonly bootsAtOnce?: number;
  readonly queueLengthMax?: number;
  readonly backoff?: { readonly minMs: number; readonly maxMs: number };
  /** Milliseconds between two checks of an idle VM. */
  readonly checkIntervalMs?: number;
  readonly leaseTimeoutMs?: number;
  readonly stableMs?: number;
  readonly log?: Log;
  readonly onEvent?: (event: CacheEvent) => void;
}

export interface CacheCounters {
  readonly hits: number;
  readonly boots: number;
  /** Boots that failed. */
  readonly bootFailures: number;
  /** Idle VMs that died, failed a check, or failed when they were to be handed out. */
  readonly losses: number;
  readonly misses: Readonly<Record<MissReason, number>>;
}

/** "queue-full": refused at once. "gave-up": the client cancelled, or its deadline passed. "closed": the pool was ending. */
export type MissReason = "queue-full" | "gave-up" | "closed" | "mismatch";

export interface HandedOutVm {
  readonly facts: IdleVmFacts;
  readonly lease: VmLease;
  /** Destroys the VM: the client it was meant for has gone. */
  revoke(): Promise<void>;
}

export class VmCache implements AsyncDisposable {
  readonly #options: CacheOptions;
  readonly #log: Log;
  readonly #slots: readonly Slot[];
  readonly #claims: ClaimQueue<{ readonly slot: Slot; readonly vm: IdleVm }>;
  readonly #bootAbort = new AbortController();
  /** Whatever must have ended before `close` resolves. */
  readonly #work = new Set<Promise<void>>();
  readonly #checkTimer: ReturnType<typeof setInterval>;
  readonly #misses: Record<MissReason, number> = { "queue-full": 0, "gave-up": 0, closed: 0, mismatch: 0 };
  #hits = 0;
  #boots = 0;
  #bootFailures = 0;
  #losses = 0;
  #booting = 0;
  #closed: Promise<void> | undefined;
  #started = false;

  constructor(options: CacheOptions) {
    this.#options = options;
    this.#log = options.log ?? silentLog;
    this.#slots = Array.from({ length: options.slots }, (_, index) => new Slot(index));
    this.#claims = new ClaimQueue(options.queueLengthMax ?? POOL_QUEUE_LENGTH_MAX);
    this.#checkTimer = setInterval(() => this.#startChecks(), options.checkIntervalMs ?? VM_CHECK_INTERVAL_MS);
  }

  /** Begins to boot. What `adopt` took before needs no boot. */
  start(): void {
    this.#started = true;
    this.#pump();
  }

  /** Takes in an idle VM that is there already. False when no slot is free; the VM is then still the caller's. */
  adopt(vm: IdleVm): boolean {
    const slot = this.#slots.find(({ state }) => state.kind === "empty");
    if (slot === undefined || this.#closed !== undefined) return false;
    this.#becomeIdle(slot, vm);
    return true;
  }

  get counters(): CacheCounters {
    return {
      hits: this.#hits,
      boots: this.#boots,
      bootFailures: this.#bootFailures,
      losses: this.#losses,
      misses: { ...this.#misses },
    };
  }

  get slots(): SlotStatus[] {
    return this.#slots.map(slotStatus);
  }

  /** Claims waiting now. */
  get waiting(): number {
    return this.#claims.length;
  }

  countMiss(reason: MissReason): void {
    this.#misses[reason] += 1;
  }

  /**
   * A leased VM for the first claim in line. Waits until one is idle; "resource-exhausted" when too many wait already,
   * "unavailable" when the pool is ending, the signal's reason when it aborts. Each VM is given to one claim only; one
   * that does not take its lease is destroyed and the next one tried.
   */
  async take(signal: AbortSignal): Promise<HandedOutVm> {
    try {
      for (let attempt = 0; ; attempt++) {
        const { slot, vm } = await this.#nextIdle(signal, attempt > 0);
        if (signal.aborted) {
          this.#offer(slot, vm);
          throw signal.reason;
        }
        const handedOut = await this.#handOut(slot, vm);
        if (handedOut === undefined) continue;
        if (signal.aborted) {
          await handedOut.revoke();
          throw signal.reason;
        }
        this.#hits += 1;
        return handedOut;
      }
    } catch (thrown) {
      this.countMiss(this.#missReason(thrown, signal));
      throw toHearthError(thrown, "claim pooled vm");
    }
  }

  /** No new hand-outs; waiting claims fail; boots are ended and idle VMs destroyed. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    clearInterval(this.#checkTimer);
    const error = closedError();
    this.#claims.rejectAll(error);
    this.#bootAbort.abort(error);
    for (const slot of this.#slots) {
      const { state } = slot;
      if (state.kind === "backing-off") clearTimeout(state.timer);
      if (state.kind === "idle" || state.kind === "checking") this.#end(slot, state.vm);
    }
    while (this.#work.size > 0) await Promise.all(this.#work);
  }

  #missReason(thrown: unknown, signal: AbortSignal): MissReason {
    if (signal.aborted) return "gave-up";
    return thrown instanceof HearthError && thrown.code === "resource-exhausted" ? "queue-full" : "closed";
  }

  #nextIdle(signal: AbortSignal, again: boolean): Promise<{ readonly slot: Slot; readonly vm: IdleVm }> {
    if (this.#closed !== undefined) return Promise.reject(closedError());
    if (again || this.#claims.length === 0) {
      const found = this.#oldestIdle();
      if (found !== undefined) {
        found.slot.state = { kind: "leasing", vm: found.vm };
        return Promise.resolve(found);
      }
    }
    return this.#claims.wait(signal, again);
  }

  /** The one that has been ready longest, so that none grows old. */
  #oldestIdle(): { readonly slot: Slot; readonly vm: IdleVm } | undefined {
    let oldest: { readonly slot: Slot; readonly vm: IdleVm } | undefined;
    for (const slot of this.#slots) {
      if (slot.state.kind !== "idle") continue;
      const { vm } = slot.state;
      if (oldest === undefined || vm.facts.readyAtMs < oldest.vm.facts.readyAtMs) oldest = { slot, vm };
    }
    return oldest;
  }

  /** Undefined when the VM was no good; its slot is being cleaned up then. */
  async #handOut(slot: Slot, vm: IdleVm): Promise<HandedOutVm | undefined> {
    try {
      const timeoutMs = this.#options.leaseTimeoutMs ?? VM_LEASE_TIMEOUT_MS;
      const lease = await this.#track(vm.lease(newToken(), this.#options.leaseMs, timeoutMs));
      slot.state = { kind: "empty" };
      slot.failures = 0;
      this.#log.info("vm handed out", { vm: vm.facts.vmId, slot: slot.index });
      this.#options.onEvent?.({ kind: "handed-out", slot: slot.index, vmId: vm.facts.vmId });
      vm.release();
      // Starting a process takes milliseconds of this thread: the answer goes first.
      setTimeout(() => this.#pump(), REFILL_DELAY_MS);
      return { facts: vm.facts, lease, revoke: () => this.#track(this.#revoke(vm)) };
    } catch (thrown) {
      const error = toHearthError(thrown, `lease vm ${vm.facts.vmId}`);
      if (error instanceof RemoteError && error.code === "failed-precondition") this.#letGo(slot, vm, error);
      else this.#lose(slot, vm, error);
      return undefined;
    }
  }

  /** It lives and is not idle: somebody has it, and it must not be destroyed under them. */
  #letGo(slot: Slot, vm: IdleVm, error: HearthError): void {
    this.#losses += 1;
    this.#log.error("pooled vm is not ours", { vm: vm.facts.vmId, slot: slot.index, error: describeError(error) });
    vm.release();
    slot.state = { kind: "empty" };
    this.#pump();
  }

  async #revoke(vm: IdleVm): Promise<void> {
    this.#log.info("claim given up, vm destroyed", { vm: vm.facts.vmId });
    await vm.destroy();
  }

  /** Makes the slot's VM idle: for the claim in line, or for the next one. */
  #offer(slot: Slot, vm: IdleVm): void {
    if (this.#closed !== undefined) {
      this.#end(slot, vm);
      return;
    }
    slot.state = { kind: "leasing", vm };
    if (!this.#claims.serve({ slot, vm })) slot.state = { kind: "idle", vm };
  }

  #becomeIdle(slot: Slot, vm: IdleVm): void {
    slot.lastError = undefined;
    void vm.lost.then((cause) => this.#onLost(slot, vm, cause));
    this.#offer(slot, vm);
  }

  /** Starts boots while slots are empty and boots are allowed. */
  #pump(): void {
    if (!this.#started || this.#closed !== undefined) return;
    const bootsAtOnce = this.#options.bootsAtOnce ?? POOL_BOOTS_AT_ONCE_DEFAULT;
    for (const slot of this.#slots) {
      if (this.#booting >= bootsAtOnce) return;
      if (slot.state.kind === "empty") void this.#track(this.#boot(slot));
    }
  }

  async #boot(slot: Slot): Promise<void> {
    const state: SlotState = { kind: "booting", startedAtMs: Date.now(), vmId: undefined, step: undefined };
    slot.state = state;
    this.#booting += 1;
    this.#options.onEvent?.({ kind: "booting", slot: slot.index });
    try {
      const vm = await this.#bootVm((vmId, step) => {
        state.vmId = vmId;
        state.step = step;
        this.#options.onEvent?.({ kind: "step", slot: slot.index, step });
      });
      this.#boots += 1;
      const bootMs = Date.now() - state.startedAtMs;
      this.#log.info("vm ready", { vm: vm.facts.vmId, slot: slot.index, bootMs });
      this.#becomeIdle(slot, vm);
      this.#options.onEvent?.({ kind: "ready", slot: slot.index, vmId: vm.facts.vmId, bootMs });
    } catch (thrown) {
      if (this.#closed !== undefined) slot.state = { kind: "empty" };
      else {
        this.#bootFailures += 1;
        this.#backOff(slot, toHearthError(thrown, "boot vm for the pool"));
      }
    } finally {
      this.#booting -= 1;
      this.#pump();
    }
  }

  async #bootVm(onStep: OnBootStep): Promise<IdleVm> {
    const { config, runDir } = this.#options;
    const { vmId, sandbox } = await this.#options.base(onStep).getBaseVm(config, this.#bootAbort.signal);
    try {
      return await connectIdleVm({ runDir, vmId }, this.#log);
    } catch (thrown) {
      await endSandboxProcess({ runDir, vmId }, sandbox, this.#log);
      throw thrown;
    }
  }

  #backOff(slot: Slot, error: HearthError): void {
    slot.failures += 1;
    slot.lastError = error;
    const range = this.#options.backoff ?? { minMs: SLOT_BACKOFF_MS_MIN, maxMs: SLOT_BACKOFF_MS_MAX };
    const retryMs = backoffMs(slot.failures, range);
    this.#log.warn("slot backs off", {
      slot: slot.index,
      failures: slot.failures,
      retryMs,
      error: describeError(error),
    });
    this.#options.onEvent?.({ kind: "failed", slot: slot.index, error, retryMs });
    const timer = setTimeout(() => {
      slot.state = { kind: "empty" };
      this.#pump();
    }, retryMs);
    slot.state = { kind: "backing-off", retryAtMs: Date.now() + retryMs, timer };
  }

  /** The sandbox process went away by itself. While it is being leased, the lease fails and sees to it. */
  #onLost(slot: Slot, vm: IdleVm, cause: HearthError): void {
    const { state } = slot;
    if ((state.kind === "idle" || state.kind === "checking") && state.vm === vm) this.#lose(slot, vm, cause);
  }

  /** A VM that is no good: cleaned up, then its slot refilled; with a pause when it did not live long. */
  #lose(slot: Slot, vm: IdleVm, error: HearthError): void {
    this.#losses += 1;
    this.#log.warn("pooled vm lost", { vm: vm.facts.vmId, slot: slot.index, error: describeError(error) });
    this.#options.onEvent?.({ kind: "lost", slot: slot.index, vmId: vm.facts.vmId, error });
    const livedMs = Date.now() - vm.facts.readyAtMs;
    this.#end(slot, vm, () => {
      if (livedMs < (this.#options.stableMs ?? VM_STABLE_MS)) this.#backOff(slot, error);
      else slot.failures = 0;
    });
  }

  /** Destroys the VM of the slot, which is empty afterwards unless `then` decides otherwise. */
  #end(slot: Slot, vm: IdleVm, then?: () => void): void {
    slot.state = { kind: "ending", vm };
    const ended = vm.destroy().then(() => {
      slot.state = { kind: "empty" };
      if (this.#closed !== undefined) return;
      then?.();
      this.#pump();
    });
    void this.#track(ended);
  }

  #startChecks(): void {
    for (const slot of this.#slots) {
      if (slot.state.kind !== "idle") continue;
      const { vm } = slot.state;
      slot.state = { kind: "checking", vm };
      void this.#track(this.#check(slot, vm));
    }
  }

  async #check(slot: Slot, vm: IdleVm): Promise<void> {
    let failure: HearthError | undefined;
    try {
      await vm.check(VM_CHECK_TIMEOUT_MS);
    } catch (thrown) {
      failure = toHearthError(thrown, `check vm ${vm.facts.vmId}`);
    }
    // It may have been lost, or the pool closed, meanwhile.
    if (slot.state.kind !== "checking" || slot.state.vm !== vm) return;
    if (failure === undefined) this.#offer(slot, vm);
    else this.#lose(slot, vm, failure);
  }

  #track<T>(work: Promise<T>): Promise<T> {
    const settled = work.then(
      () => {},
      () => {},
    );
    this.#work.add(settled);
    void settled.then(() => this.#work.delete(settled));
    return work;
  }
}

/** Milliseconds from a hand-out to its refill: time for the answer to leave, nothing against a boot. */
const REFILL_DELAY_MS = 5;

function closedError(): HearthError {
  return new HearthError("unavailable", "claim pooled vm: the pool is shutting down");
}
