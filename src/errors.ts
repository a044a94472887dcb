/**
 * The one error family of Hearth. Codes are closed; every error carries facts (ids, paths, numbers) and its cause.
 * Messages are lower case without a full stop: verb, object, name. They are printed once, at the top.
 */

/** What went wrong, as a caller may want to tell apart. Mapped to RPC statuses in rpc/ and to exit codes in cli/. */
export const ERROR_CODES = [
  "invalid-argument",
  "not-found",
  "already-exists",
  "failed-precondition",
  "permission-denied",
  "resource-exhausted",
  // The end of a stream.
  "out-of-range",
  "deadline-exceeded",
  "cancelled",
  "unavailable",
  "unimplemented",
  "internal",
] as const;
export type ErrorCode = (typeof ERROR_CODES)[number];

export type Facts = Readonly<Record<string, string | number | boolean | undefined>>;

export interface HearthErrorOptions {
  /** Ids, paths and numbers that a reader of the log needs; never secrets. */
  readonly facts?: Facts;
  /** What the operator can do about it; printed on its own line after `hint:`. */
  readonly hint?: string;
  readonly cause?: unknown;
  /** Process exit status when this error ends a command. Default 1, as runc. Range 1 to 255. */
  readonly exitCode?: number;
}

export class HearthError extends Error {
  override readonly name: string = "HearthError";
  readonly code: ErrorCode;
  readonly facts: Facts;
  readonly hint: string | undefined;
  readonly exitCode: number;

  constructor(code: ErrorCode, message: string, options: HearthErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.facts = options.facts ?? {};
    this.hint = options.hint;
    this.exitCode = options.exitCode ?? 1;
  }
}

/** A system call or a file operation failed. `errno` is the symbolic name, for example "ENOENT". */
export class SystemError extends HearthError {
  override readonly name = "SystemError";
  readonly errno: string;

  constructor(errno: string, message: string, options: HearthErrorOptions = {}) {
    super(codeOfErrno(errno), `${message}: ${errno}`, options);
    this.errno = errno;
  }
}

/** A step did not finish in its time. `step` is what was waited for. */
export class DeadlineError extends HearthError {
  override readonly name = "DeadlineError";
  readonly step: string;

  constructor(step: string, timeoutMs: number, options: HearthErrorOptions = {}) {
    super("deadline-exceeded", `wait for ${step}: no answer within ${timeoutMs} ms`, options);
    this.step = step;
  }
}

function codeOfErrno(errno: string): ErrorCode {
  switch (errno) {
    case "ENOENT":
    case "ESRCH":
      return "not-found";
    case "EEXIST":
    case "EADDRINUSE":
      return "already-exists";
    case "EACCES":
    case "EPERM":
      return "permission-denied";
    case "EINVAL":
    case "ENAMETOOLONG":
      return "invalid-argument";
    case "ENOMEM":
    case "ENOSPC":
    case "EMFILE":
    case "ENFILE":
      return "resource-exhausted";
    case "ECONNREFUSED":
    case "ECONNRESET":
    case "EPIPE":
      return "unavailable";
    default:
      return "internal";
  }
}

/** The error, whatever was thrown, as a HearthError; one that is already of the family is returned as it is. */
export function toHearthError(thrown: unknown, message: string, code: ErrorCode = "internal"): HearthError {
  if (thrown instanceof HearthError) return thrown;
  if (isErrnoException(thrown)) return new SystemError(thrown.code, message, { cause: thrown });
  const detail = thrown instanceof Error ? thrown.message : String(thrown);
  return new HearthError(code, `${message}: ${detail}`, { cause: thrown });
}

export function isErrnoException(thrown: unknown): thrown is Error & { code: string } {
  return (
    thrown instanceof Error && "code" in thrown && typeof thrown.code === "string" && /^E[A-Z0-9]+$/.test(thrown.code)
  );
}

/** True when the system said that the object is not there. */
export function isNotFound(thrown: unknown): boolean {
  return (
    (thrown instanceof HearthError && thrown.code === "not-found") ||
    (isErrnoException(thrown) && thrown.code === "ENOENT")
  );
}

/**
 * Message with the messages of its causes, outermost first, each once, joined by ": ". For the one place that prints.
 * An error that was followed by others while its own mess was cleared away comes first, they after it.
 */
export function describeError(thrown: unknown): string {
  if (thrown instanceof SuppressedError) {
    return `${describeError(thrown.suppressed)}; and then, cleaning up: ${describeError(thrown.error)}`;
  }
  const parts: string[] = [];
  for (let at: unknown = thrown, depth = 0; at !== undefined && at !== null && depth < 8; depth++) {
    const whole = at instanceof Error ? at.message : String(at);
    // A SystemError ends with the number's name, and the system's own message, its cause, begins with it.
    const [start, errno] = /^(E[A-Z0-9]+): /.exec(whole) ?? ["", undefined];
    const message = errno !== undefined && parts.at(-1)?.endsWith(errno) === true ? whole.slice(start.length) : whole;
    if (!parts.some((part) => part.includes(message))) parts.push(message);
    at = at instanceof Error ? at.cause : undefined;
  }
  return parts.join(": ");
}

/** The error itself, where others followed it while its own mess was cleared away. */
export function firstError(thrown: unknown): unknown {
  return thrown instanceof SuppressedError ? firstError(thrown.suppressed) : thrown;
}

/** For our own bugs only; validation of input throws a HearthError with its own code. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new HearthError("internal", `assertion failed: ${message}`);
}

/** Closes an exhaustive switch. */
export function unreachable(value: never): never {
  throw new HearthError("internal", `unreachable: ${JSON.stringify(value)}`);
}
