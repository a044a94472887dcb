/**
 * "The program cannot be run", in runc's words, by which engines decide: dockerd and conmon look for `executable file not
 * found in $PATH`, `no such file or directory` and `permission denied`, and then report 127 or 126 where runc itself
 * ends with 1 or 255.
 */
import { posix } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { HearthError } from "../../errors.ts";
import { START_FAILURE } from "../../util/start-failure.ts";

/** `said` is crun's reason. */
export function programNotFound(program: string, said: string): HearthError {
  const isPath = program.includes("/");
  const reason = isPath ? `stat ${program}: no such file or directory` : "executable file not found in $PATH";
  return new HearthError("not-found", `${exec(program)}: ${reason}`, { facts: { said } });
}

/** `said` is crun's reason, which is EPERM for a directory where execve(2), runc and the engines' patterns say EACCES. */
export function programNotExecutable(program: string, said: string): HearthError {
  const denied = said.toLowerCase().replace("operation not permitted", "permission denied");
  // Where something is wrong on the way to it, runc has not come to it, as with one that is missing.
  const isOnTheWay = /^(?:not a directory|too many levels|file name too long)/.test(denied);
  const reason = isOnTheWay ? `stat ${program}: ${denied}` : denied;
  return new HearthError("permission-denied", `${exec(program)}: ${reason}`);
}

/**
 * In runc's words what crun says once the container has been started and the kernel does not execute its program: another
 * machine's, no format that it knows, an interpreter that is missing, arguments that are too long. `said` is all that there is on its
 * standard error or terminal; undefined for anything else. Source: crun 1.8, libcrun_container_run_internal.
 */
export function refusedProgram(said: string, program: string): string | undefined {
  const [, path, reason] = INIT_REFUSED.exec(plain(said)) ?? [];
  if (path === undefined || reason === undefined || !isPathOf(path, program)) return undefined;
  return `exec ${program.includes("/") ? program : path}: ${reason.toLowerCase()}\n`;
}

/** The same of a process that `exec` starts, where crun does not name the program. Source: crun 1.8, exec_process_entrypoint. */
export function refusedExec(said: string, program: string): string | undefined {
  const [, reason] = EXEC_REFUSED.exec(plain(said)) ?? [];
  return reason === undefined ? undefined : `exec ${program}: ${reason.toLowerCase()}\n`;
}

const INIT_REFUSED = /^(?:\d{4}-\S+Z: )?exec container process(?: \(missing dynamic library\?\))? `(.*)`: ([^\n]+)\n$/;
const EXEC_REFUSED = /^(?:\d{4}-\S+Z: )?exec: ([^\n]+)\n$/;

/** What crun begins an error on a terminal with. Source: crun 1.8, log_write_to_stderr. */
const RED = "\u001b[1;31m";

/** Whether the rest of crun's line may be still to come: on a terminal the kernel gives it out in pieces. */
export function isBeginOfRefusal(said: string): boolean {
  return said.startsWith(RED) && /^(?:\d{4}-[^\n]*)?$/.test(said.slice(RED.length));
}

/** Without what crun adds on a terminal: colours here, and a time before it. */
function plain(said: string): string {
  return stripVTControlCharacters(said).replaceAll("\r\n", "\n");
}

/** crun has found `path` for `program`. */
function isPathOf(path: string, program: string): boolean {
  return posix.normalize(path).endsWith(posix.join("/", program));
}

function exec(program: string): string {
  return `${START_FAILURE}: exec: "${program.replaceAll('"', "'")}"`;
}

/** The working directory cannot be entered. `said` is crun's reason. */
export function wrongDirectory(directory: string, said: string): HearthError {
  const message = `${START_FAILURE}: chdir to cwd ("${directory}") set in config.json failed: ${said.toLowerCase()}`;
  return new HearthError("failed-precondition", message);
}
