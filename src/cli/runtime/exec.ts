/** `exec`: another process in a running container; in the foreground with its exit status, or detached behind a shim. */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { HearthError, toHearthError } from "../../errors.ts";
import type { Log } from "../../log.ts";
import { type ContainerRecord, type ContainerStatus, canExec, statusOf } from "../../oci/container-record.ts";
import { readContainer } from "../../oci/container-store.ts";
import { processOf } from "../../oci/record-hooks.ts";
import { type Process, parseProcess, stringifySpec } from "../../oci/spec.ts";
import type { SandboxConnection } from "../../rpc/sandbox-connection.ts";
import { hostSecurity } from "../../sandbox/host-security.ts";
import { labelledProcess } from "../../sandbox/process-labels.ts";
import { startShim } from "../../shim/shim.ts";
import { takeStandardFd } from "../../shim/standard-fds.ts";
import { writeFileAtomic } from "../../sys/atomic-file.ts";
import { asFd, dup } from "../../sys/fd.ts";
import { ownIdentity } from "../../sys/process-identity.ts";
import { isTerminal, makeRaw, openPty, ownTerminal, setWindowSize } from "../../sys/pty.ts";
import type { FlagValues } from "../flags.ts";
import { UsageError } from "../usage-error.ts";
import { defineRuntimeCommand } from "./command.ts";
import type { RuntimeContext } from "./context.ts";
import { checkedPidFile, checkTerminalFlags, consoleSizeOf } from "./create-container.ts";
import { buildProcess } from "./exec-process.ts";
import { handOverMaster, handOverPidfd } from "./hand-over.ts";
import { PRESERVE_FDS_FLAG, type PreservedFds, preservedFds, takePreservedFds } from "./preserved-fds.ts";
import { abortable } from "./signals.ts";
import { spawnShim } from "./spawn-shim.ts";
import { connectContainer } from "./with-sandbox.ts";

const FLAGS = {
  "console-socket": { type: "string", value: "SOCKET", help: "unix socket that receives the terminal's master side" },
  "pidfd-socket": { type: "string", value: "SOCKET", help: "unix socket that receives a pidfd of the process's shim" },
  cwd: { type: "string", value: "DIR", help: "working directory in the container" },
  env: { type: "string", short: "e", multiple: true, value: "NAME=VALUE", help: "add to the environment" },
  tty: { type: "boolean", short: "t", help: "give the process a terminal" },
  user: { type: "string", short: "u", value: "UID[:GID]", help: "numbers of the user and group" },
  "additional-gids": { type: "string", short: "g", multiple: true, value: "GID", help: "add to the groups" },
  process: { type: "string", short: "p", value: "FILE", help: "OCI process as JSON, instead of a command" },
  detach: { type: "boolean", short: "d", help: "do not wait for the end of the process" },
  "pid-file": { type: "string", value: "FILE", help: "write the pid of the process's shim to FILE" },
  "process-label": { type: "string", value: "LABEL", help: "SELinux label; not applied, the guest has no SELinux" },
  apparmor: { type: "string", value: "PROFILE", help: "AppArmor profile of the host" },
  "no-new-privs": { type: "boolean", help: "set no_new_privs" },
  cap: { type: "string", short: "c", multiple: true, value: "CAP", help: "add a capability" },
  "preserve-fds": PRESERVE_FDS_FLAG,
  cgroup: { type: "string", multiple: true, value: "PATH", help: "a cgroup below the container's own" },
  "ignore-paused": { type: "boolean", help: "wait until a paused container is resumed, instead of failing" },
} as const;
export type ExecFlags = FlagValues<typeof FLAGS>;

export const command = defineRuntimeCommand({
  flags: FLAGS,
  positionals: "<container-id> [command] [args...]",
  flagsEnd: "first-positional",
  failurePrefix: "exec failed",
  failureExitCode: 255,
  async run(context, flags, positionals) {
    const [id, ...args] = positionals;
    if (id === undefined) throw new UsageError("container id is missing");
    // As runc, which passes on no sockets of systemd's here.
    const preserved = preservedFds(context, flags["preserve-fds"], { activation: false });
    checkGroups(flags["additional-gids"]);
    const root = await context.root();
    let record = readContainer(root, id);
    if (flags["ignore-paused"] && statusOf(record) === "paused") {
      const { whenResumed } = await import("./when-resumed.ts");
      record = await whenResumed(root, record);
    }
    const status = statusOf(record);
    if (!canExec(status)) throw cannotExec(id, status);
    const process = buildProcess(readProcessFile(flags.process), processOf(record), flags, args);
    // As for create: what cannot be applied is refused here, the sandbox process does the work.
    labelledProcess(process, hostSecurity(), false, []);
    const pidFile = flags["pid-file"] === undefined ? undefined : checkedPidFile(flags["pid-file"]);
    const cgroup = subCgroup(flags.cgroup);
    const sockets = { consoleSocket: flags["console-socket"], pidfdSocket: flags["pidfd-socket"] };
    const exec = { record, process, cgroup, pidFile, preserved, ...sockets };
    checkTerminalFlags(process.terminal === true, flags.detach, exec.consoleSocket);
    return flags.detach ? await execDetached(context, exec) : await execInForeground(context, exec);
  },
});

interface Exec {
  readonly record: ContainerRecord;
  readonly process: Process;
  /** Below the container's own in the guest; "" for that itself. */
  readonly cgroup: string;
  readonly pidFile: string | undefined;
  readonly preserved: PreservedFds;
  readonly consoleSocket: string | undefined;
  readonly pidfdSocket: string | undefined;
}

function cannotExec(id: string, status: ContainerStatus): HearthError {
  const why = status === "creating" ? `container not running: ${id}` : `cannot exec in a ${status} container: ${id}`;
  return new HearthError("failed-precondition", why, { facts: { id, status } });
}

/** The guest has cgroup v2: there are no hierarchies of single controllers to choose a path in. */
function subCgroup(paths: readonly string[]): string {
  const [path = "", ...more] = paths.filter((given) => given.split(":").at(-1) !== "/");
  if (more.length > 0) throw notCgroup(more[0] ?? "", "only one path can be given");
  if (path.includes(":")) throw notCgroup(path, "the guest's cgroup v2 has no controllers of their own");
  if (path.split("/").includes("..")) throw notCgroup(path, "not below the container's own");
  return path;
}

function notCgroup(path: string, why: string): HearthError {
  return new HearthError("invalid-argument", `use --cgroup ${path}: ${why}`);
}

/** Numbers only, as for runc part of the command line's form. */
function checkGroups(groups: readonly string[]): void {
  const bad = groups.find((gid) => !/^\d{1,10}$/.test(gid));
  if (bad !== undefined)
    throw new UsageError(`invalid value ${JSON.stringify(bad)} for flag --additional-gids: must be a number`);
}

function readProcessFile(path: string | undefined): Process | undefined {
  if (path === undefined) return undefined;
  const source = resolve(path);
  let text: string;
  try {
    text = readFileSync(source, "utf8");
  } catch (thrown) {
    throw toHearthError(thrown, `read process ${source}`);
  }
  return parseProcess(text, source);
}

/** Creates the process in the guest; until somebody waits for it as its owner it lives as long as the connection. */
async function createProcess(
  { sandbox }: SandboxConnection,
  { record, process, cgroup, preserved }: Exec,
  execId: string,
  size: { readonly rows: number; readonly columns: number },
  { log, ...options }: { readonly timeoutMs: number; readonly signal: AbortSignal; readonly log: Log },
): Promise<void> {
  // In the process itself: its first look at the terminal may come before a later change of its size.
  const sized = size.rows > 0 ? { ...process, consoleSize: { height: size.rows, width: size.columns } } : process;
  const { warnings } = await sandbox.execProcess(
    {
      containerId: record.id,
      execId,
      processJson: new TextEncoder().encode(stringifySpec(sized)),
      terminalRows: size.rows,
      terminalColumns: size.columns,
      cgroup,
      descriptors: [...preserved.uses],
    },
    options,
  );
  for (const warning of warnings) log.warn(warning, { id: record.id });
}

function newExecId(): string {
  return `exec-${crypto.randomUUID()}`;
}

/** The shim's part is done in this process: it has our stdio and our terminal, and ends as the process ends. */
async function execInForeground(context: RuntimeContext, exec: Exec): Promise<number> {
  const { record, process: spec } = exec;
  const { log } = context;
  const timeoutMs = (await context.config()).runtime.request_timeout_ms;
  const hasTerminal = spec.terminal === true;
  await using connection = await connectContainer(record, timeoutMs);
  using terminal = hasTerminal ? ownTerminal() : undefined;
  const size = hasTerminal ? consoleSizeOf(spec.consoleSize, terminal?.fd) : { rows: 0, columns: 0 };
  const execId = newExecId();
  await abortable(async (signal) => {
    await createProcess(connection, exec, execId, size, { timeoutMs, signal, log });
    await handOverPidfd(ownIdentity(), "setns", exec.pidfdSocket, signal);
  });
  if (exec.pidFile !== undefined) writeFileAtomic(exec.pidFile, String(process.pid), { mode: 0o644 });
  const plainNewlines = hasTerminal && !isTerminal(asFd(1));
  using _raw = terminal === undefined ? undefined : makeRaw(terminal.fd);
  const shim = startShim({
    target: { sandbox: connection.sandbox, containerId: record.id, execId },
    stdio: {
      stdin: takeStandardFd(0),
      stdout: takeStandardFd(1),
      // Our own errors still go there.
      stderr: hasTerminal ? undefined : dup(asFd(2)),
    },
    preserved: takePreservedFds(exec.preserved),
    terminal: terminal?.fd,
    plainNewlines,
    log,
  });
  await shim.ready;
  return await shim.exited;
}

async function execDetached(context: RuntimeContext, exec: Exec): Promise<number> {
  const { record, process: spec } = exec;
  const timeoutMs = (await context.config()).runtime.request_timeout_ms;
  await using connection = await connectContainer(record, timeoutMs);
  using undo = new DisposableStack();
  const pty = spec.terminal === true ? openPty() : undefined;
  undo.defer(() => {
    pty?.master.close();
    pty?.terminal.close();
  });
  const size = consoleSizeOf(spec.consoleSize, undefined);
  if (pty !== undefined && size.rows > 0) setWindowSize(pty.master.fd, size);
  await abortable(async (signal) => {
    const execId = newExecId();
    await using shim = await spawnShim({
      launch: {
        socket: record.vm.socket,
        containerId: record.id,
        execId,
        terminal: pty === undefined ? "none" : "session",
        preserved: exec.preserved.uses,
      },
      stdio: pty === undefined ? undefined : [pty.terminal.fd, pty.terminal.fd, pty.terminal.fd],
      netns: { kind: "path", path: `/proc/${record.shim.pid}/ns/net` },
      ownPids: false,
      cgroupDirs: record.cgroupDirs,
      preserved: takePreservedFds(exec.preserved).map(({ fd }) => fd.fd),
      signal,
    });
    await createProcess(connection, exec, execId, size, { timeoutMs, signal, log: context.log });
    await shim.attach();
    try {
      if (pty !== undefined && exec.consoleSocket !== undefined) await handOverMaster(pty, exec.consoleSocket, signal);
      await handOverPidfd(shim.identity, "setns", exec.pidfdSocket, signal);
      if (exec.pidFile !== undefined) writeFileAtomic(exec.pidFile, String(shim.identity.pid), { mode: 0o644 });
    } catch (thrown) {
      shim.child.kill(9);
      throw thrown;
    }
  });
  return 0;
}
