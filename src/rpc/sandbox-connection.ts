/** A connection to the process that owns a VM: what runtime commands, shims and the pool server speak through. */
import { HearthError } from "../errors.ts";
import { connectUnix } from "../sys/unix-socket.ts";
import { type SandboxCalls, sandboxCalls } from "./protocols.ts";
import { TtrpcClient } from "./ttrpc/client.ts";

export interface SandboxConnection extends AsyncDisposable {
  readonly sandbox: SandboxCalls;
  /** Resolves with the cause when the connection has ended, whoever ended it. */
  readonly closed: Promise<HearthError>;
  close(): void;
}

/** Fails with not-found or unavailable when nobody listens on `socket`: the VM is gone. */
export async function connectSandbox(
  socket: string,
  options: { readonly timeoutMs: number; readonly signal?: AbortSignal },
): Promise<SandboxConnection> {
  const client = new TtrpcClient(await connectUnix(socket, options));
  return {
    sandbox: sandboxCalls(client),
    closed: client.closed,
    close: () => client.close(),
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  };
}

/** True for the errors of connecting and calling that mean: there is no sandbox process any more. */
export function isSandboxGone(thrown: unknown): boolean {
  return thrown instanceof HearthError && !("status" in thrown) && ["not-found", "unavailable"].includes(thrown.code);
}
