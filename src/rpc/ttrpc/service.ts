/** What handlers of a ttRPC service are given: the call, its end, and the connection it came over. */
import type { GenService } from "@bufbuild/protobuf/codegenv2";
import type { ServiceHandlers } from "../service.ts";

/** One client's connection, as handlers see it. Usable as the key of a WeakMap for what belongs to this connection. */
export interface TtrpcConnection {
  /** For logs; chosen by whoever serves. */
  readonly id: number;
  /** Resolves when the connection has closed, whoever closed it; never rejects. */
  readonly closed: Promise<void>;
  readonly isClosed: boolean;
  /** Runs `hook` once, when the connection closes, or at once when it has. Returns how to take it back. */
  onClose(hook: () => void): () => void;
  close(): void;
}

export interface CallContext {
  /** Aborted when the connection closes or the caller's deadline passes. */
  readonly signal: AbortSignal;
  readonly connection: TtrpcConnection;
  /** Resolves when the answer to this call is with the kernel, or never will be: the moment to exit after an answer. */
  readonly answered: Promise<void>;
}

/** `HandlersOf<typeof SandboxService>`: the handlers of a generated service, none missing with Required<…>. */
export type HandlersOf<Service> =
  Service extends GenService<infer Methods> ? ServiceHandlers<Methods, CallContext> : never;
