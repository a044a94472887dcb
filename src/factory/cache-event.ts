/** What happens in the pool, and how often it has: for displays of progress, metrics and the status. The log says the same. */
import type { HearthError } from "../errors.ts";

/** `shape` is a shape's name, `slot` counts within it. */
export type CacheEvent = { readonly shape: string; readonly slot: number } & (
  | { readonly kind: "booting" }
  | { readonly kind: "step"; readonly step: string }
  | { readonly kind: "ready"; readonly vmId: string; readonly bootMs: number }
  | { readonly kind: "failed"; readonly error: HearthError; readonly retryMs: number }
  | { readonly kind: "lost"; readonly vmId: string; readonly error: HearthError }
  | { readonly kind: "checked"; readonly vmId: string; readonly checkMs: number }
  /** Replaced because of its age. */
  | { readonly kind: "retired"; readonly vmId: string }
  /** Not wanted any more by the configuration, or for what is on disk now. */
  | { readonly kind: "drained"; readonly vmId: string }
  /** `waitMs`: since the claim came; `ageMs`: since the VM was ready. */
  | { readonly kind: "handed-out"; readonly vmId: string; readonly waitMs: number; readonly ageMs: number }
);

type WithoutPlace<Event> = Event extends unknown ? Omit<Event, "shape" | "slot"> : never;
/** An event of a shape that is known from where it happens. */
export type WhatHappened = WithoutPlace<CacheEvent>;

/** "queue-full": refused at once. "gave-up": the client cancelled, or its deadline passed. "closed": the pool was ending. */
export type MissReason = "queue-full" | "gave-up" | "closed" | "mismatch";

/** Of all shapes together, from the pool's start on. */
export interface CacheCounters {
  readonly hits: number;
  readonly boots: number;
  /** Boots that failed. */
  readonly bootFailures: number;
  /** Idle VMs that died, failed a check, or failed when they were to be handed out. */
  readonly losses: number;
  readonly retired: number;
  readonly drained: number;
  /** Times that the host had been asleep, which all idle VMs are checked after. */
  readonly suspensions: number;
  readonly misses: Readonly<Record<MissReason, number>>;
}

export class CacheCounts implements CacheCounters {
  hits = 0;
  boots = 0;
  bootFailures = 0;
  losses = 0;
  retired = 0;
  drained = 0;
  suspensions = 0;
  readonly misses: Record<MissReason, number> = { "queue-full": 0, "gave-up": 0, closed: 0, mismatch: 0 };
}
