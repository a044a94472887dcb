/** What happens in the pool server, for displays of progress; the log says the same. */
import type { HearthError } from "../errors.ts";
import type { CacheEvent } from "../factory/cache-event.ts";

export type PoolEvent =
  | CacheEvent
  | { readonly kind: "listening"; readonly endpoint: string }
  | { readonly kind: "adopted"; readonly vmId: string }
  /** Other settings hold from now on. */
  | { readonly kind: "configured" }
  /** The settings of before still hold. */
  | { readonly kind: "config-refused"; readonly error: HearthError }
  | { readonly kind: "stopping"; readonly reason: string };
