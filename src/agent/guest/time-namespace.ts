/**
 * Time namespaces: crun 1.8 can neither make nor join one beside a pid namespace. So it does not hear of it, and is
 * started inside of it every time, as what it notes of a process depends on the clock that it reads.
 */
import { appendFileSync, writeFileSync } from "node:fs";
import { describeError, HearthError, toHearthError } from "../../errors.ts";
import { cleanEnv } from "../../sys/environment.ts";
import { becomeProgram } from "../../sys/exec.ts";
import { asFd, setCloseOnExec } from "../../sys/fd.ts";
import { CLONE_NEWTIME, unshare } from "../../sys/namespace.ts";
import { isRecord, type JsonRecord, recordAt } from "./json-record.ts";

export type TimeNamespace =
  /** To be made; `offsets` is what the kernel is told of its clocks. */
  | { readonly kind: "new"; readonly offsets: string }
  /** That of a process, by its path in /proc. */
  | { readonly kind: "joined"; readonly path: string };

/** The first argument of the agent's program when it is to make a time namespace instead of serving. */
export const TIME_NAMESPACE_COMMAND = "time-namespace";

const AGENT = "/usr/bin/hearth-agent";
/** A thread of a process that has others may not join one, as the agent would have to. Source: setns(2). */
const NSENTER = "/usr/bin/nsenter";

/** What `linux` asks for, with the paths of other containers' namespaces in place. Fails with invalid-argument. */
export function timeNamespaceOf(linux: JsonRecord, namespaces: readonly JsonRecord[]): TimeNamespace | undefined {
  const wanted = namespaces.find(({ type }) => type === "time");
  if (wanted === undefined) return undefined;
  if (typeof wanted["path"] === "string") return { kind: "joined", path: wanted["path"] };
  const offsets = Object.entries(recordAt(linux, "timeOffsets")).map(([clock, offset]) => offsetLine(clock, offset));
  return { kind: "new", offsets: offsets.join("") };
}

/** Source: time_namespaces(7). */
function offsetLine(clock: string, offset: unknown): string {
  const { secs = 0, nanosecs = 0 } = isRecord(offset) ? offset : {};
  const isWhole = [secs, nanosecs].every((value) => typeof value === "number" || typeof value === "bigint");
  if ((clock === "monotonic" || clock === "boottime") && isWhole) return `${clock} ${secs} ${nanosecs}\n`;
  throw new HearthError("invalid-argument", `apply linux.timeOffsets.${clock}: not an offset of monotonic or boottime`);
}

type CommandLine = readonly [string, ...string[]];

/**
 * The command line that runs `argv` in the time namespace. What goes wrong in making it is written to the file `log`.
 * `preserved`: so many descriptors beside the standard streams are for the program.
 */
export function insideTimeNamespace(
  namespace: TimeNamespace | undefined,
  log: string,
  argv: CommandLine,
  preserved = 0,
): CommandLine {
  switch (namespace?.kind) {
    case undefined:
      return argv;
    case "new":
      return [
        AGENT,
        TIME_NAMESPACE_COMMAND,
        namespace.offsets,
        log,
        String(preserved),
        ...joining("/proc/self/ns/time_for_children", argv),
      ];
    case "joined":
      return joining(namespace.path, argv);
  }
}

function joining(path: string, argv: CommandLine): CommandLine {
  return [NSENTER, "--no-fork", `--time=${path}`, "--", ...argv];
}

/** Makes a time namespace for the program that takes this process's place: the words after the command's own. */
export function makeTimeNamespace([offsets = "", log = "", preserved, ...argv]: readonly string[]): never {
  const [program = ""] = argv;
  try {
    unshare(CLONE_NEWTIME);
    if (offsets !== "") setOffsets(offsets);
    // Bun has marked all that it was started with.
    for (let fd = 3; fd < 3 + Number(preserved); fd++) setCloseOnExec(asFd(fd), false);
    return becomeProgram(program, argv, cleanEnv());
  } catch (thrown) {
    appendFileSync(log, `${describeError(thrown)}\n`, { mode: 0o600 });
    process.exit(1);
  }
}

/** The kernel takes them once, before a process is in the namespace, and only in one write. */
function setOffsets(offsets: string): void {
  try {
    writeFileSync("/proc/self/timens_offsets", offsets);
  } catch (thrown) {
    throw toHearthError(thrown, "apply linux.timeOffsets");
  }
}
