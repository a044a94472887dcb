/**
 * The stable form in which "the program cannot be run" travels from the guest to the engine. Engines look into the
 * message too: dockerd and conmon want `executable file not found in $PATH`, `no such file or directory` or
 * `permission denied`.
 */
import { HearthError } from "../errors.ts";

export type ExecFailureKind = "not-found" | "not-executable";

const NOT_FOUND = "executable file not found in $PATH";
const PREFIX = 'exec: "';

/** An error that `execFailureOf` recognises on the other side of an RPC. Its exitCode is what a shell would return. */
export function execFailure(kind: ExecFailureKind, program: string, detail: string): HearthError {
  const shown = program.replaceAll('"', "'");
  if (kind === "not-found") {
    const reason = program.includes("/") ? "no such file or directory" : NOT_FOUND;
    return new HearthError("not-found", `${PREFIX}${shown}": ${reason}`, { exitCode: 127, facts: { detail } });
  }
  // crun says EPERM of a directory where execve(2), runc and the engines' patterns say EACCES.
  const reason = detail.toLowerCase().replace("operation not permitted", "permission denied");
  return new HearthError("permission-denied", `${PREFIX}${shown}": ${reason}`, { exitCode: 126 });
}

/** Why the program cannot be run; undefined when the error says something else. */
export function execFailureOf(error: unknown): ExecFailureKind | undefined {
  if (!(error instanceof HearthError) || !error.message.includes(PREFIX)) return undefined;
  if (error.code === "not-found") return "not-found";
  return error.code === "permission-denied" ? "not-executable" : undefined;
}
