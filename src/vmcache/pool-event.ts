/** What happens in the pool server, for displays of progress; the log says the same. */
import type { CacheEvent } from "../factory/cache.ts";

export type PoolEvent =
  | CacheEvent
  | { readonly kind: "listening"; readonly endpoint: string }
  | { readonly kind: "adopted"; readonly vmId: string }
  | { readonly kind: "stopping"; readonly reason: string };
