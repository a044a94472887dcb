/**
 * The cache factory for one shape: keeps a number of VMs booted, rehearsed and paused over a base factory and gives each
 * away once. Every slot refills by itself and backs off by itself: a failed boot never closes the pool.
 */
import { assert, describeError, HearthError, toHearthError } from "../errors.ts";
import {
  VM_CHECK_TIMEOUT_MS,
  VM_CHECKS_AT_ONCE_MAX,
  VM_LEASE_TIMEOUT_MS,
  VM_PROVEN_MS,
  VM_STABLE_MS,
} from "../limits.ts";
import type { Log } from "../log.ts";
import { RemoteError } from "../rpc/status.ts";
import { identityDigest, type VmConfig } from "../vm/vm-config.ts";
import { backoffMs } from "./backoff.ts";
import type { Booter } from "./boot-budget.ts";
import type { WhatHappened } from "./cache-event.ts";
import type { CacheParts, CacheSettings, HandedOutVm, OnBootStep } from "./cache-parts.ts";
import { dueForCheck, lossOf, Slot, type SlotState, type SlotStatus, slotStatus } from "./cache-slot.ts";
import { ClaimQueue } from "./claim-queue.ts";
import { connectIdleVm, endSandboxProcess, type IdleVm } from "./idle-vm.ts";
import { newToken } from "./launch.ts";

/** "<vcpus>x<MiB>": unique among the shapes of a pool. */
export function shapeName({ vcpus, memoryMib }: Pick<VmConfig, "vcpus" | "memoryMib">): string {
  return `${vcpus}x${memoryMib}`;
}

/** A claim's shape was taken out of the pool: it may be made anew, for the shape that fits best now. */
export class ShapeGoneError extends HearthError {
  override readonly name = "ShapeGoneError";
}

export class VmCache implements Booter {
  readonly shape: string;
  /** Hex digest. */
  readonly identity: string;
  readonly #parts: CacheParts;
  readonly #log: Log;
  readonly #provenMs: number;
  readonly #slots: Slot[] = [];
  readonly #claims: ClaimQueue<{ readonly slot: Slot; readonly vm: IdleVm }>;
  readonly #bootAbort = new AbortController();
  /** Whatever must have ended before `close` resolves. */
  readonly #work = new Set<Promise<void>>();
  #config: VmConfig;
  #settings: CacheSettings;
  #closed: { readonly reason: HearthError; readonly done: Promise<void> } | undefined;

  constructor(config: VmConfig, settings: CacheSettings, parts: CacheParts) {
    this.shape = shapeName(config);
    this.#config = config;
    this.identity = identityDigest(config);
    this.#parts = parts;
    this.#log = parts.log.with({ shape: this.shape });
    this.#provenMs = parts.provenMs ?? VM_PROVEN_MS;
    this.#settings = settings;
    this.#claims = new ClaimQueue(settings.queueLengthMax);
    this.#resize();
  }

  get config(): VmConfig {
    return this.#config;
  }

  get settings(): CacheSettings {
    return this.#settings;
  }

  /**
   * Takes effect at once; VMs over the number are ended. `config` must be of the same identity. The caller pumps the
   * budget afterwards.
   */
  configure(config: VmConfig, settings: CacheSettings): void {
    assert(identityDigest(config) === this.identity, "a vm of another identity is another shape");
    this.#config = config;
    this.#settings = settings;
    this.#claims.lengthMax = settings.queueLengthMax;
    // What they wait for may just have been mended.
    for (const slot of [...this.#slots]) if (slot.state.kind === "backing-off") this.#stopBackingOff(slot);
    this.#resize();
  }

  get slots(): SlotStatus[] {
    return this.#slots.map((slot) => slotStatus(slot, this.shape));
  }

  /** Claims waiting now. */
  get waiting(): number {
    return this.#claims.length;
  }

  get memoryMib(): number {
    return this.#config.memoryMib;
  }

  get held(): number {
    return this.#slots.filter(({ state }) => state.kind !== "empty" && state.kind !== "backing-off").length;
  }

  get ending(): number {
    return this.#slots.filter(({ state }) => state.kind === "ending").length;
  }

  /** Claims that wait count most, then the share of the slots that is empty. */
  get need(): number | undefined {
    const empty = this.#slots.filter(({ state }) => state.kind === "empty").length;
    if (empty === 0 || this.#closed !== undefined) return undefined;
    const booting = this.#slots.filter(({ state }) => state.kind === "booting").length;
    return Math.max(0, this.#claims.length - booting) + empty / this.#slots.length;
  }

  /** For a slot that is empty; see Booter. */
  boot(): Promise<void> {
    const slot = this.#slots.find(({ state }) => state.kind === "empty");
    return slot === undefined ? Promise.resolve() : this.#track(this.#boot(slot));
  }

  /** Takes in an idle VM that is there already. False when no slot is free; the VM is then still the caller's. */
  adopt(vm: IdleVm): boolean {
    const slot = this.#slots.find(({ state }) => state.kind === "empty");
    if (slot === undefined || this.#closed !== undefined) return false;
    this.#becomeIdle(slot, vm);
    return true;
  }

  /**
   * A leased VM for the first claim in line. Waits until one is idle; "resource-exhausted" when too many wait already,
   * the reason of `close` when the shape is ending, the signal's reason when it aborts. Each VM is given to one claim
   * only; one that does not take its lease is destroyed and the next one tried.
   */
  async take(signal: AbortSignal): Promise<HandedOutVm> {
    const startedAt = performance.now();
    for (let attempt = 0; ; attempt++) {
      const { slot, vm } = await this.#nextIdle(signal, attempt > 0);
      if (signal.aborted) {
        this.#offer(slot, vm);
        throw signal.reason;
      }
      const handedOut = await this.#handOut(slot, vm, startedAt);
      if (handedOut === undefined) continue;
      if (signal.aborted) {
        await handedOut.revoke();
        throw signal.reason;
      }
      return handedOut;
    }
  }

  /**
   * Checks the idle VMs whose last proof of life is older than the interval, and the one that is next in line when its
   * proof would be too old before the next look, `nextMs` from now. Replaces the oldest that is too old.
   */
  look(nextMs: number): void {
    this.#startChecks();
    const next = this.#oldestIdle();
    if (next !== undefined && next.vm.provenAgoMs >= this.#provenMs - nextMs) void this.#startCheck(next.slot, next.vm);
    this.#retireOldest();
  }

  /** Few at once: a hundred clones that are all checked for the first time would starve each other. */
  #startChecks(): void {
    const room = VM_CHECKS_AT_ONCE_MAX - this.#slots.filter(({ state }) => state.kind === "checking").length;
    for (const { slot, vm } of dueForCheck(this.#slots, this.#settings.checkIntervalMs).slice(0, Math.max(0, room))) {
      void this.#startCheck(slot, vm).then(() => this.#startChecks());
    }
  }

  #startCheck(slot: Slot, vm: IdleVm): Promise<void> {
    slot.state = { kind: "checking", vm };
    return this.#track(this.#check(slot, vm));
  }

  /** From now on every VM has to prove anew that it lives, before it is handed out and at the next look. */
  distrust(): void {
    for (const { state } of this.#slots) if ("vm" in state) state.vm.distrust();
  }

  /** Ends one idle VM, if there is one, to make room for others. */
  giveUpOne(): boolean {
    const found = this.#oldestIdle();
    if (found === undefined) return false;
    this.#drain(found.slot, found.vm);
    return true;
  }

  /** No new hand-outs; waiting claims fail with `reason`; boots are ended and idle VMs destroyed. Idempotent. */
  close(reason: HearthError): Promise<void> {
    this.#closed ??= { reason, done: Promise.resolve().then(() => this.#close(reason)) };
    return this.#closed.done;
  }

  async #close(reason: HearthError): Promise<void> {
    this.#claims.rejectAll(reason);
    this.#bootAbort.abort(reason);
    for (const slot of [...this.#slots]) {
      const { state } = slot;
      if (state.kind === "backing-off") this.#stopBackingOff(slot);
      if (state.kind !== "idle" && state.kind !== "checking") continue;
      if (reason instanceof ShapeGoneError) this.#drain(slot, state.vm);
      else this.#end(slot, state.vm);
    }
    while (this.#work.size > 0) await Promise.all(this.#work);
  }

  #nextIdle(signal: AbortSignal, again: boolean): Promise<{ readonly slot: Slot; readonly vm: IdleVm }> {
    if (this.#closed !== undefined) return Promise.reject(this.#closed.reason);
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
  async #handOut(slot: Slot, vm: IdleVm, startedAt: number): Promise<HandedOutVm | undefined> {
    try {
      const timeoutMs = this.#parts.leaseTimeoutMs ?? VM_LEASE_TIMEOUT_MS;
      const agent = vm.provenAgoMs > this.#provenMs;
      const lease = await this.#track(
        vm.lease({ token: newToken(), leaseMs: this.#settings.leaseMs, agent }, timeoutMs),
      );
      slot.failures = 0;
      const waitMs = performance.now() - startedAt;
      this.#log.info("vm handed out", { vm: vm.facts.vmId, slot: slot.index, waitMs: Math.round(waitMs) });
      vm.release();
      this.#empty(slot);
      const ageMs = Date.now() - vm.facts.readyAtMs;
      this.#event(slot, { kind: "handed-out", vmId: vm.facts.vmId, waitMs, ageMs });
      // Starting a process takes milliseconds of this thread: the answer goes first.
      setTimeout(() => this.#parts.budget.pump(), REFILL_DELAY_MS);
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
    this.#parts.counts.losses += 1;
    this.#log.error("pooled vm is not ours", { vm: vm.facts.vmId, slot: slot.index, error: describeError(error) });
    this.#event(slot, { kind: "lost", vmId: vm.facts.vmId, error });
    vm.release();
    this.#empty(slot);
    this.#parts.budget.pump();
  }

  async #revoke(vm: IdleVm): Promise<void> {
    this.#log.info("claim given up, vm destroyed", { vm: vm.facts.vmId });
    await vm.destroy(this.#parts.kill);
  }

  /** Makes the slot's VM idle: for the claim in line, or for the next one. */
  #offer(slot: Slot, vm: IdleVm): void {
    if (this.#closed !== undefined) {
      this.#end(slot, vm);
      return;
    }
    slot.state = { kind: "leasing", vm };
    if (this.#claims.serve({ slot, vm })) return;
    if (slot.isSurplus) this.#drain(slot, vm);
    else slot.state = { kind: "idle", vm };
  }

  #becomeIdle(slot: Slot, vm: IdleVm): void {
    slot.lastError = undefined;
    void vm.lost.then((cause) => this.#onLost(slot, vm, cause));
    this.#offer(slot, vm);
  }

  /** The slot has no VM any more; one too many goes. */
  #empty(slot: Slot): void {
    slot.state = { kind: "empty" };
    if (slot.isSurplus) this.#slots.splice(this.#slots.indexOf(slot), 1);
  }

  /** As many slots as the settings say. Those with least to lose go first, and none before its VM has gone. */
  #resize(): void {
    const { number } = this.#settings;
    const wanted = this.#slots.filter(({ isSurplus }) => !isSurplus);
    for (const slot of this.#slots.filter(({ isSurplus }) => isSurplus)) {
      if (wanted.length >= number) break;
      slot.isSurplus = false;
      wanted.push(slot);
    }
    for (let index = 0; wanted.length < number; index++) {
      if (this.#slots.some((slot) => slot.index === index)) continue;
      const slot = new Slot(index);
      this.#slots.push(slot);
      wanted.push(slot);
    }
    const surplus = wanted.toSorted((a, b) => lossOf(a) - lossOf(b)).slice(0, wanted.length - number);
    for (const slot of surplus) {
      slot.isSurplus = true;
      if (slot.state.kind === "idle") this.#drain(slot, slot.state.vm);
      else if (slot.state.kind === "backing-off") this.#stopBackingOff(slot);
      else if (slot.state.kind === "empty") this.#empty(slot);
    }
    this.#slots.sort((a, b) => a.index - b.index);
  }

  async #boot(slot: Slot): Promise<void> {
    const state: SlotState = { kind: "booting", startedAtMs: Date.now(), vmId: undefined, step: undefined };
    slot.state = state;
    this.#event(slot, { kind: "booting" });
    try {
      const vm = await this.#bootVm((vmId, step) => {
        state.vmId = vmId;
        state.step = step;
        this.#event(slot, { kind: "step", step });
      });
      this.#parts.counts.boots += 1;
      const bootMs = Date.now() - state.startedAtMs;
      this.#log.info("vm ready", { vm: vm.facts.vmId, slot: slot.index, bootMs });
      this.#becomeIdle(slot, vm);
      this.#event(slot, { kind: "ready", vmId: vm.facts.vmId, bootMs });
      this.#retireOldest();
    } catch (thrown) {
      if (this.#closed !== undefined) {
        this.#empty(slot);
        return;
      }
      this.#parts.counts.bootFailures += 1;
      this.#backOff(slot, toHearthError(thrown, "boot vm for the pool"));
    }
  }

  async #bootVm(onStep: OnBootStep): Promise<IdleVm> {
    const { runDir, base, kill } = this.#parts;
    const { signal } = this.#bootAbort;
    const { vmId, sandbox } = await base(onStep).getBaseVm(this.#config, signal);
    try {
      const vm = await connectIdleVm({ runDir, vmId }, this.#log, signal);
      // It has just rehearsed.
      vm.proven();
      return vm;
    } catch (thrown) {
      await endSandboxProcess({ runDir, vmId }, sandbox, this.#log, { kill });
      throw thrown;
    }
  }

  #backOff(slot: Slot, error: HearthError): void {
    slot.failures += 1;
    slot.lastError = error;
    const retryMs = backoffMs(slot.failures, this.#settings.backoff);
    this.#log.warn("slot backs off", {
      slot: slot.index,
      failures: slot.failures,
      retryMs,
      error: describeError(error),
    });
    const timer = setTimeout(() => {
      this.#empty(slot);
      this.#parts.budget.pump();
    }, retryMs);
    slot.state = { kind: "backing-off", retryAtMs: Date.now() + retryMs, timer };
    this.#event(slot, { kind: "failed", error, retryMs });
    if (slot.isSurplus) this.#stopBackingOff(slot);
  }

  #stopBackingOff(slot: Slot): void {
    if (slot.state.kind === "backing-off") clearTimeout(slot.state.timer);
    this.#empty(slot);
  }

  /** The sandbox process went away by itself. While it is being leased, the lease fails and sees to it. */
  #onLost(slot: Slot, vm: IdleVm, cause: HearthError): void {
    const { state } = slot;
    if ((state.kind === "idle" || state.kind === "checking") && state.vm === vm) this.#lose(slot, vm, cause);
  }

  /** A VM that is no good: cleaned up, then its slot refilled; with a pause when it did not live long. */
  #lose(slot: Slot, vm: IdleVm, error: HearthError): void {
    this.#parts.counts.losses += 1;
    this.#log.warn("pooled vm lost", { vm: vm.facts.vmId, slot: slot.index, error: describeError(error) });
    this.#event(slot, { kind: "lost", vmId: vm.facts.vmId, error });
    const livedMs = Date.now() - vm.facts.readyAtMs;
    this.#end(slot, vm, () => {
      if (livedMs < (this.#parts.stableMs ?? VM_STABLE_MS)) this.#backOff(slot, error);
      else slot.failures = 0;
    });
  }

  #drain(slot: Slot, vm: IdleVm): void {
    this.#parts.counts.drained += 1;
    this.#log.info("idle vm not wanted any more", { vm: vm.facts.vmId, slot: slot.index });
    this.#event(slot, { kind: "drained", vmId: vm.facts.vmId });
    this.#end(slot, vm);
  }

  /** One at a time, and only while the others are ready: VMs that were booted together grow old together. */
  #retireOldest(): void {
    const { ageMaxMs } = this.#settings;
    const oldest = this.#oldestIdle();
    if (ageMaxMs === 0 || oldest === undefined || Date.now() - oldest.vm.facts.readyAtMs < ageMaxMs) return;
    const isFilling = this.#slots.some(
      ({ state }) => state.kind === "empty" || state.kind === "booting" || state.kind === "ending",
    );
    if (isFilling) return;
    const { slot, vm } = oldest;
    this.#parts.counts.retired += 1;
    this.#log.info("idle vm too old", { vm: vm.facts.vmId, slot: slot.index });
    this.#event(slot, { kind: "retired", vmId: vm.facts.vmId });
    this.#end(slot, vm);
  }

  /** Destroys the VM of the slot, which is empty afterwards unless `then` decides otherwise. */
  #end(slot: Slot, vm: IdleVm, then?: () => void): void {
    slot.state = { kind: "ending", vm };
    const ended = vm.destroy(this.#parts.kill).then(() => {
      this.#empty(slot);
      if (this.#closed !== undefined) return;
      if (!slot.isSurplus) then?.();
      this.#parts.budget.pump();
    });
    void this.#track(ended);
  }

  async #check(slot: Slot, vm: IdleVm): Promise<void> {
    let failure: HearthError | undefined;
    const startedAt = performance.now();
    try {
      await vm.check(VM_CHECK_TIMEOUT_MS);
    } catch (thrown) {
      failure = toHearthError(thrown, `check vm ${vm.facts.vmId}`);
    }
    // It may have been lost, or the pool closed, meanwhile.
    if (slot.state.kind !== "checking" || slot.state.vm !== vm) return;
    if (failure !== undefined) {
      this.#lose(slot, vm, failure);
      return;
    }
    this.#event(slot, { kind: "checked", vmId: vm.facts.vmId, checkMs: performance.now() - startedAt });
    this.#offer(slot, vm);
  }

  #event(slot: Slot, event: WhatHappened): void {
    this.#parts.onEvent({ shape: this.shape, slot: slot.index, ...event });
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
