/** What a cache of VMs is made of and told, and what it hands out. */
import type { Log } from "../log.ts";
import type { BaseFactory } from "./base-factory.ts";
import type { BootBudget } from "./boot-budget.ts";
import type { CacheCounts, CacheEvent } from "./cache-event.ts";
import type { IdleVmFacts, VmLease } from "./idle-vm.ts";

/** Reports the steps of a boot that is under way. */
export type OnBootStep = (vmId: string, step: string) => void;

/** What the operator sets and may change while the pool runs. */
export interface CacheSettings {
  /** VMs kept ready, 1 or more. */
  readonly number: number;
  /** Milliseconds in which a VM handed out must be adopted. */
  readonly leaseMs: number;
  readonly queueLengthMax: number;
  readonly backoff: { readonly minMs: number; readonly maxMs: number };
  /** Milliseconds between two checks of an idle VM. */
  readonly checkIntervalMs: number;
  /** Milliseconds after which an idle VM is replaced; 0: never. */
  readonly ageMaxMs: number;
}

/** The same for every shape of a pool. */
export interface CacheParts {
  readonly runDir: string;
  /** Makes the base factory of one boot; its VMs must come in mode "idle". */
  readonly base: (onStep: OnBootStep) => BaseFactory;
  readonly log: Log;
  readonly onEvent: (event: CacheEvent) => void;
  readonly counts: CacheCounts;
  readonly budget: BootBudget;
  /** Once it aborts, VMs that are to end are killed. */
  readonly kill?: AbortSignal | undefined;
  readonly leaseTimeoutMs?: number | undefined;
  readonly stableMs?: number | undefined;
  readonly provenMs?: number | undefined;
}

export interface HandedOutVm {
  readonly facts: IdleVmFacts;
  readonly lease: VmLease;
  /** Destroys the VM: the client it was meant for has gone. */
  revoke(): Promise<void>;
}
