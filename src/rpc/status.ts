/** The one mapping between RPC status codes, whose numbers ttRPC and gRPC share, and the codes of HearthError. */
import { describeError, type ErrorCode, HearthError } from "../errors.ts";
import { RPC_ERROR_MESSAGE_LENGTH_MAX } from "../limits.ts";

/** Source: google/rpc/code.proto. */
export const STATUS_OK = 0;
const STATUS_OF_CODE: { readonly [Code in ErrorCode]: number } = {
  cancelled: 1,
  "invalid-argument": 3,
  "deadline-exceeded": 4,
  "not-found": 5,
  "already-exists": 6,
  "permission-denied": 7,
  "resource-exhausted": 8,
  "failed-precondition": 9,
  "out-of-range": 11,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
};
/** Statuses that other implementations send and we have no code of our own for: aborted and unauthenticated. */
const CODE_OF_FOREIGN_STATUS = new Map<number, ErrorCode>([
  [10, "failed-precondition"],
  [16, "permission-denied"],
]);
const CODE_OF_STATUS = new Map<number, ErrorCode>(CODE_OF_FOREIGN_STATUS);
for (const [code, status] of Object.entries(STATUS_OF_CODE)) CODE_OF_STATUS.set(status, code as ErrorCode);

/** The other side answered with an error, so the transport works. Message and code are the other side's. */
export class RemoteError extends HearthError {
  override readonly name = "RemoteError";
  /** The status as it was received. */
  readonly status: number;

  constructor(status: number, message: string, method: string) {
    super(codeOfStatus(status), message === "" ? `call ${method}: status ${status}` : message, {
      facts: { method, status },
    });
    this.status = status;
  }
}

export interface RpcStatus {
  readonly code: number;
  readonly message: string;
}

export function statusOfCode(code: ErrorCode): number {
  return STATUS_OF_CODE[code];
}

/** Unknown, data loss and numbers that nobody has defined are "internal". */
export function codeOfStatus(status: number): ErrorCode {
  return CODE_OF_STATUS.get(status) ?? "internal";
}

/** What a handler threw, as a status: code of the HearthError, else internal; messages with their causes, clipped. */
export function statusOfError(thrown: unknown): RpcStatus {
  const code = thrown instanceof HearthError ? STATUS_OF_CODE[thrown.code] : STATUS_OF_CODE.internal;
  return { code, message: clip(describeError(thrown)) };
}

function clip(message: string): string {
  if (message.length <= RPC_ERROR_MESSAGE_LENGTH_MAX) return message;
  return `${message.slice(0, RPC_ERROR_MESSAGE_LENGTH_MAX - 1)}…`;
}

/** Why a call was given up by its own caller: the abort reason when it is one of ours, else "cancelled". */
export function cancellationError(method: string, reason: unknown): HearthError {
  if (reason instanceof HearthError) return reason;
  return new HearthError("cancelled", `call ${method}: cancelled by the caller`, { cause: reason });
}
