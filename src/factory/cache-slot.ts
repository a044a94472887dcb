/** One place of the pool: its state, and how that reads in a status. */
import type { HearthError } from "../errors.ts";
import type { IdleVm, IdleVmFacts } from "./idle-vm.ts";

export type SlotState =
  /** Waits for its turn to boot. */
  | { readonly kind: "empty" }
  | { readonly kind: "booting"; readonly startedAtMs: number; vmId: string | undefined; step: string | undefined }
  /** The last boots failed. */
  | { readonly kind: "backing-off"; readonly retryAtMs: number; readonly timer: ReturnType<typeof setTimeout> }
  | { readonly kind: "idle"; readonly vm: IdleVm }
  /** In its regular check. */
  | { readonly kind: "checking"; readonly vm: IdleVm }
  /** Being given to a client. */
  | { readonly kind: "leasing"; readonly vm: IdleVm }
  /** Lost, too old or not wanted; being cleaned up. */
  | { readonly kind: "ending"; readonly vm: IdleVm };

export class Slot {
  readonly index: number;
  state: SlotState = { kind: "empty" };
  /** In a row; 0 after a VM that lived. */
  failures = 0;
  lastError: HearthError | undefined;
  /** Not wanted any more: goes as soon as its state allows. */
  isSurplus = false;

  constructor(index: number) {
    this.index = index;
  }
}

/** A slot as an operator sees it. */
export interface SlotStatus {
  /** Name of its shape; indexes count within it. */
  readonly shape: string;
  readonly index: number;
  readonly state: SlotState["kind"];
  readonly vm: IdleVmFacts | undefined;
  /** While it boots. */
  readonly bootingVmId: string | undefined;
  readonly step: string | undefined;
  readonly failures: number;
  /** Why the last VM of this slot was lost; undefined once one is ready again. */
  readonly lastError: string | undefined;
  /** Milliseconds since the epoch; only while backing off. */
  readonly retryAtMs: number | undefined;
}

export function slotStatus(slot: Slot, shape: string): SlotStatus {
  const { state } = slot;
  return {
    shape,
    index: slot.index,
    state: state.kind,
    vm: "vm" in state ? state.vm.facts : undefined,
    bootingVmId: state.kind === "booting" ? state.vmId : undefined,
    step: state.kind === "booting" ? state.step : undefined,
    failures: slot.failures,
    lastError: slot.lastError?.message,
    retryAtMs: state.kind === "backing-off" ? state.retryAtMs : undefined,
  };
}

/** The less, the sooner a slot that is not wanted any more goes. */
export function lossOf({ state }: Slot): number {
  return ["empty", "backing-off", "ending", "booting", "idle", "checking", "leasing"].indexOf(state.kind);
}

/** Those whose idle VM has not proved for longer than this that it lives, the most overdue first. */
export function dueForCheck(
  slots: readonly Slot[],
  intervalMs: number,
): { readonly slot: Slot; readonly vm: IdleVm }[] {
  const due = slots.flatMap((slot) => {
    const { state } = slot;
    return state.kind === "idle" && state.vm.provenAgoMs >= intervalMs ? [{ slot, vm: state.vm }] : [];
  });
  return due.sort((a, b) => b.vm.provenAgoMs - a.vm.provenAgoMs);
}
