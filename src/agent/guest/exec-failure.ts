/**
 * "The program cannot be run", in runc's words, by which engines decide: dockerd and conmon look for `executable file not
 * found in $PATH`, `no such file or directory` and `permission denied`, and then report 127 or 126 where runc itself
 * ends with 1 or 255.
 */
import { HearthError } from "../../errors.ts";

/** `said` is crun's reason. */
export function programNotFound(program: string, said: string): HearthError {
  const reason = program.includes("/") ? "no such file or directory" : "executable file not found in $PATH";
  return new HearthError("not-found", `${exec(program)}: ${reason}`, { facts: { said } });
}

/** `said` is crun's reason, which is EPERM for a directory where execve(2), runc and the engines' patterns say EACCES. */
export function programNotExecutable(program: string, said: string): HearthError {
  const reason = said.toLowerCase().replace("operation not permitted", "permission denied");
  return new HearthError("permission-denied", `${exec(program)}: ${reason}`);
}

function exec(program: string): string {
  return `exec: "${program.replaceAll('"', "'")}"`;
}
