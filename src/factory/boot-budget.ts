/** What the shapes of a pool share: how many VMs may boot at once, and how much memory they may have together. */

/** One shape of the pool, as far as booting is concerned. */
export interface Booter {
  /** MiB of one VM. */
  readonly memoryMib: number;
  /** VMs that take memory: booting, idle, being given away or being ended. */
  readonly held: number;
  /** Those of them that are being ended. */
  readonly ending: number;
  /** How much one more VM is wanted, the highest first; undefined: not at all. */
  readonly need: number | undefined;
  /** Begins a boot; `held` counts it at once. Resolves when it has ended, however; never rejects. */
  boot(): Promise<void>;
}

export interface BudgetLimits {
  /** 1 or more. */
  readonly bootsAtOnce: number;
  /** MiB; 0: no bound. */
  readonly memoryMaxMib: number;
}

export class BootBudget {
  #limits: BudgetLimits;
  #booters: readonly Booter[] = [];
  #booting = 0;

  constructor(limits: BudgetLimits) {
    this.#limits = limits;
  }

  /** From now on these limits and shapes hold. What boots already goes on. */
  set(limits: BudgetLimits, booters: readonly Booter[]): void {
    this.#limits = limits;
    this.#booters = booters;
  }

  /** MiB that all VMs have together. */
  get memoryMib(): number {
    return this.#booters.reduce((sum, { held, memoryMib }) => sum + held * memoryMib, 0);
  }

  /** MiB over the bound, without what is being ended already. */
  get excessMib(): number {
    const { memoryMaxMib } = this.#limits;
    if (memoryMaxMib === 0) return 0;
    const endingMib = this.#booters.reduce((sum, { ending, memoryMib }) => sum + ending * memoryMib, 0);
    return Math.max(0, this.memoryMib - endingMib - memoryMaxMib);
  }

  /** Begins as many boots as are wanted and allowed. To be called whenever either may have changed. */
  pump(): void {
    while (this.#booting < this.#limits.bootsAtOnce) {
      const next = this.#neediest();
      if (next === undefined) return;
      this.#booting += 1;
      void next.boot().then(() => {
        this.#booting -= 1;
        this.pump();
      });
    }
  }

  #neediest(): Booter | undefined {
    const { memoryMaxMib } = this.#limits;
    const leftMib = memoryMaxMib === 0 ? Number.POSITIVE_INFINITY : memoryMaxMib - this.memoryMib;
    let found: { readonly booter: Booter; readonly need: number } | undefined;
    for (const booter of this.#booters) {
      const { need } = booter;
      if (need === undefined || booter.memoryMib > leftMib) continue;
      if (found === undefined || need > found.need) found = { booter, need };
    }
    return found?.booter;
  }
}
