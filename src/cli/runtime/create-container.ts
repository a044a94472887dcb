/** Makes a container: reserves its id, gets a VM, creates it there, starts its shim, runs the hooks, commits it. */

import { accessSync, constants, readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { HearthConfig } from "../../config/config.ts";
import { describeError, HearthError, toHearthError } from "../../errors.ts";
import type { BaseVm } from "../../factory/base-factory.ts";
import { NAME_SERVERS_MAX } from "../../limits.ts";
import { checkContainerId } from "../../oci/container-id.ts";
import { type ContainerRecord, hookState, statusOf } from "../../oci/container-record.ts";
import {
  containerOfShim,
  hasContainer,
  type LockedContainer,
  lendsCgroup,
  readContainer,
  reserveContainer,
} from "../../oci/container-store.ts";
import { type PodRole, vmRole, wantedSize } from "../../oci/pod.ts";
import { type Mount, stringifySpec } from "../../oci/spec.ts";
import { connectSandbox, isSandboxGone, type SandboxConnection } from "../../rpc/sandbox-connection.ts";
import { checkHostCgroupEmpty, createHostCgroup, hostCgroup, removeHostCgroup } from "../../sandbox/cgroup.ts";
import { type GuestSpec, toGuestSpec } from "../../sandbox/guest-spec.ts";
import { hostFileType, hostHasDevice, hostTmpfs } from "../../sandbox/host-file.ts";
import { applyHostLimits } from "../../sandbox/host-limits.ts";
import { hostSecurity } from "../../sandbox/host-security.ts";
import { refuse } from "../../sandbox/refuse.ts";
import { openRootView } from "../../sandbox/root-view.ts";
import { writeFileAtomic } from "../../sys/atomic-file.ts";
import type { Fd } from "../../sys/fd.ts";
import { namespaceInode } from "../../sys/namespace.ts";
import { resolveInRoot } from "../../sys/open-in-root.ts";
import { signalProcess } from "../../sys/process-identity.ts";
import {
  getWindowSize,
  keepOwnMode,
  openPty,
  ownTerminal,
  type Pty,
  type RawMode,
  setWindowSize,
  type WindowSize,
} from "../../sys/pty.ts";
import { SIGKILL, SIGTERM } from "../../sys/signals.ts";
import type { VmSize } from "../../vm/vm-config.ts";
import { type Bundle, readBundle } from "./bundle.ts";
import type { RuntimeContext } from "./context.ts";
import { runPoststopHooks } from "./delete.ts";
import { handOverMaster, handOverPidfd } from "./hand-over.ts";
import { configWithActivation, type PreservedFds, takePreservedFds } from "./preserved-fds.ts";
import { endProcess, endVm } from "./release.ts";
import { type PendingShim, spawnShim } from "./spawn-shim.ts";

export interface CreateOptions {
  readonly id: string;
  readonly bundle: string;
  readonly pidFile: string | undefined;
  readonly consoleSocket: string | undefined;
  readonly pidfdSocket: string | undefined;
  /** The container outlives this process; otherwise it shares our terminal, if it wants one. */
  readonly detached: boolean;
  /** Taken over. */
  readonly preserved: PreservedFds;
  readonly signal: AbortSignal;
}

export interface CreatedContainer {
  /** Its lock is held; the caller disposes of it. */
  readonly container: LockedContainer;
  readonly shim: PendingShim;
  /** The mode of the terminal that we are started at, when the process has it: its shim, if killed, does not put it back. */
  readonly terminalMode: RawMode | undefined;
}

/** The VM a container goes into, and how that is undone. */
interface ContainerVm {
  readonly connection: SandboxConnection;
  readonly vm: ContainerRecord["vm"];
  readonly joined?: NonNullable<ContainerRecord["joined"]>;
}

/** Nothing is left when this fails: no process, directory, cgroup or VM. */
export async function createContainer(context: RuntimeContext, options: CreateOptions): Promise<CreatedContainer> {
  const { id, signal } = options;
  checkContainerId(id);
  const bundle = readBundle(options.bundle);
  checkTerminal(bundle, options);
  const root = await context.root();
  const role = vmRole(bundle.spec, {
    containerOfPid: (pid) => containerOfShim(root, pid)?.id,
    hasContainer: (id) => hasContainer(root, id),
  });
  // What no VM can apply is refused before there is one; the sandbox process does the same work again for itself.
  const guest = guestSpecOf(bundle, id, role);
  const pidFile = options.pidFile === undefined ? undefined : checkedPidFile(options.pidFile);
  const timeoutMs = (await context.config()).runtime.request_timeout_ms;

  await using undo = new AsyncDisposableStack();
  const container = undo.use(await reserveContainer(root, id));
  const hooks = { begun: false };
  undo.defer(async () => {
    if (hooks.begun) await runPoststopHooks(context, container.record);
  });
  const cgroup = hostCgroup(bundle.spec.linux?.cgroupsPath, id);
  const cgroupDirs = cgroup.map(({ dir }) => dir);
  checkHostCgroupEmpty(cgroupDirs, () => lendsCgroup(root, id));
  container.noteCgroups(cgroupDirs);
  createHostCgroup(cgroup);
  undo.defer(() => removeHostCgroup(cgroupDirs));
  if (role.kind !== "member") {
    for (const warning of applyHostLimits(cgroupDirs, bundle.spec.linux?.resources)) context.log.warn(warning, { id });
  }
  const enter = { bundle, role, id, root, cgroupDirs, timeoutMs, signal };
  const { connection, vm, joined } = await enterVm(context, enter, undo);
  const pty = openTerminal(bundle, options, undo);
  const size = terminalSize(bundle, options);
  const terminal = terminalKind(bundle, pty);
  const terminalMode = terminal === "shared" ? keepOwnMode() : undefined;
  undo.defer(() => terminalMode?.restore());
  const preserved = takePreservedFds(options.preserved);
  const shim = undo.use(
    await spawnShim({
      launch: { socket: vm.socket, containerId: id, execId: id, terminal, preserved: options.preserved.uses },
      stdio: pty === undefined ? undefined : [pty.terminal.fd, pty.terminal.fd, pty.terminal.fd],
      netns: bundle.netns,
      ownPids: true,
      cgroupDirs,
      preserved: preserved.map(({ fd }) => fd.fd),
      signal,
    }),
  );
  // The shim's alone: as long as we held them, nobody would see them closed.
  for (const { fd } of preserved) fd.close();
  await takeNetDevices(bundle, shim, signal);
  // Before the guest makes the container: its createContainer hooks come after these.
  const record = { ...newRecord(bundle, id, vm, shim, cgroupDirs), ...(joined === undefined ? {} : { joined }) };
  container.save(record);
  hooks.begun = true;
  await runCreateHooks(record, bundle);
  const { warnings } = await connection.sandbox.createContainer(
    {
      containerId: id,
      bundle: bundle.dir,
      configJson: configWithActivation(bundle, options.preserved),
      terminalRows: size.rows,
      terminalColumns: size.columns,
      mountNamespace: `/proc/${process.pid}/ns/mnt`,
      descriptors: [...options.preserved.uses],
    },
    { timeoutMs, signal },
  );
  for (const warning of warnings) context.log.warn(warning, { id });
  await attachInside(context, shim, guest);
  undo.defer(() => endProcess("shim", shim.identity, 0, SIGKILL));
  for (const warning of await connectNetwork(connection, bundle, role, shim, timeoutMs, signal)) {
    context.log.warn(warning, { id });
  }
  if (pty !== undefined && options.consoleSocket !== undefined)
    await handOverMaster(pty, options.consoleSocket, signal);
  await handOverPidfd(shim.identity, "standard", options.pidfdSocket, signal);
  signal.throwIfAborted();
  await connection.sandbox.commitContainer(
    { containerId: id, shimPid: BigInt(shim.identity.pid), shimStartTime: BigInt(shim.identity.startTime) },
    { timeoutMs },
  );
  if (pidFile !== undefined) writeFileAtomic(pidFile, String(shim.identity.pid), { mode: 0o644 });
  container.save({ ...record, status: "created" });
  container.keep();
  undo.move();
  connection.close();
  pty?.master.close();
  pty?.terminal.close();
  return { container, shim, terminalMode };
}

/** The shim is in the container's file system from then on. */
async function attachInside({ log }: RuntimeContext, shim: PendingShim, guest: GuestSpec): Promise<void> {
  const { namespace, procPaths, warnings } = await openRootView(guest);
  using _namespace = namespace;
  for (const warning of warnings) log.debug(warning);
  await shim.attach({ mountNamespace: `/proc/${process.pid}/fd/${namespace.fd}`, procPaths });
}

/** As runc: who detaches must give somebody the terminal, and a terminal that nobody asked for cannot be given. */
export function checkTerminalFlags(terminal: boolean, detached: boolean, consoleSocket: string | undefined): void {
  if (detached && terminal && consoleSocket === undefined) {
    throw new HearthError(
      "invalid-argument",
      "cannot allocate tty if the runtime will detach without setting console socket",
    );
  }
  if ((!detached || !terminal) && consoleSocket !== undefined) {
    throw new HearthError(
      "invalid-argument",
      "cannot use console socket if the runtime will not detach or allocate tty",
    );
  }
  if (!terminal || detached) return;
  using own = ownTerminal();
  if (own === undefined) {
    throw new HearthError(
      "invalid-argument",
      "run with a terminal: there is none, neither on a standard stream nor as /dev/tty",
    );
  }
}

/** Which containers a pod has, and so whose namespaces can be joined, is known to its sandbox process alone. */
function guestSpecOf({ spec, dir }: Bundle, containerId: string, role: PodRole): GuestSpec {
  const other = role.kind === "member" ? role.sandboxId : undefined;
  return toGuestSpec(spec, {
    containerId,
    bundle: dir,
    fileTypeOf: hostFileType,
    modeInRoot: () => undefined,
    placeInRoot: resolveInRoot,
    mountsBelow: () => [],
    mountFlags: () => [],
    tmpfsAt: hostTmpfs,
    security: hostSecurity(),
    hasDevice: hostHasDevice,
    containerOfPid: () => other,
    hasContainer: (id) => id === other,
    containerOfPath: () => other,
  });
}

function checkTerminal(bundle: Bundle, { detached, consoleSocket }: CreateOptions): void {
  checkTerminalFlags(bundle.spec.process.terminal === true, detached, consoleSocket);
}

/** Absolute; its directory must be there and writable before anything is made. */
export function checkedPidFile(path: string): string {
  const absolute = resolve(path);
  try {
    accessSync(dirname(absolute), constants.W_OK);
  } catch (thrown) {
    throw toHearthError(thrown, `write pid file ${absolute}`);
  }
  return absolute;
}

interface EnterVm {
  readonly bundle: Bundle;
  readonly role: PodRole;
  readonly id: string;
  readonly root: string;
  readonly cgroupDirs: readonly string[];
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** A VM of its own, or for a member another container's. Until the container is committed it belongs to the connection. */
async function enterVm(context: RuntimeContext, enter: EnterVm, undo: AsyncDisposableStack): Promise<ContainerVm> {
  return enter.role.kind === "member"
    ? await joinVm(context, enter, enter.role.sandboxId, undo)
    : await adoptVm(context, enter, undo);
}

async function adoptVm(context: RuntimeContext, enter: EnterVm, undo: AsyncDisposableStack): Promise<ContainerVm> {
  const config = await context.config();
  const need = neededSize(enter.bundle.spec, config);
  const request = { config, log: context.log, signal: enter.signal, need };
  const { possession, ...entered } = await context.acquireVm(request, (base) => possessVm(context, enter, base, need));
  undo.use(possession);
  return entered;
}

/** Disposing of the possession ends the VM. */
interface PossessedVm extends ContainerVm {
  readonly possession: AsyncDisposableStack;
}

/** What the limits ask for, else the default: a pooled VM may be smaller than that. */
function neededSize(spec: Bundle["spec"], { hypervisor }: HearthConfig): VmSize {
  const { vcpus, memoryMib } = wantedSize(spec);
  return { vcpus: vcpus || hypervisor.default_vcpus, memoryMib: memoryMib || hypervisor.default_memory };
}

async function possessVm(context: RuntimeContext, enter: EnterVm, base: BaseVm, need: VmSize): Promise<PossessedVm> {
  const { bundle, id, cgroupDirs, timeoutMs, signal } = enter;
  const vm = {
    id: base.vmId,
    // Not the configured one: a pool server may have another.
    runDir: dirname(dirname(dirname(base.sandboxSocket))),
    socket: base.sandboxSocket,
    sandbox: base.sandbox,
  };
  await using possession = new AsyncDisposableStack();
  let connection: SandboxConnection | undefined;
  possession.defer(async () => {
    if (connection === undefined) signalProcess(vm.sandbox, SIGTERM);
    else await quietly(context, "destroy VM", connection.sandbox.destroy({}, { timeoutMs }));
    connection?.close();
    await endVm(vm, context.log);
  });
  connection = await connectSandbox(base.sandboxSocket, { timeoutMs, signal });
  const { hostname = "" } = bundle.spec;
  await connection.sandbox.adopt(
    {
      token: base.token,
      sandboxId: id,
      hostname,
      vcpus: need.vcpus,
      memoryMib: need.memoryMib,
      cgroupDirs: [...cgroupDirs],
    },
    { timeoutMs, signal },
  );
  context.log.debug("vm adopted", { id, vm: base.vmId, source: base.source });
  return { connection, vm, possession: possession.move() };
}

async function joinVm(
  context: RuntimeContext,
  enter: EnterVm,
  sandboxId: string,
  undo: AsyncDisposableStack,
): Promise<ContainerVm> {
  const { id, root, timeoutMs, signal } = enter;
  const sandbox = readContainer(root, sandboxId);
  if (statusOf(sandbox) === "stopped") {
    throw new HearthError("failed-precondition", `join VM of sandbox ${sandboxId}: container not running`);
  }
  checkNetwork(enter.bundle, sandbox);
  const connection = await connectSandbox(sandbox.vm.socket, { timeoutMs, signal });
  undo.defer(async () => {
    const removed = connection.sandbox.deleteContainer({ containerId: id, force: true }, { timeoutMs });
    await quietly(context, "remove container", removed);
    connection.close();
  });
  const { joined = { id: sandbox.id, cgroupDirs: sandbox.cgroupDirs } } = sandbox;
  return { connection, vm: sandbox.vm, joined };
}

/** A VM has one network: a pod whose containers do not share theirs cannot be in it. */
function checkNetwork({ netns }: Bundle, { id, shim }: ContainerRecord): void {
  if (netns.kind !== "path" || namespaceInode(netns.path) === namespaceInode(`/proc/${shim.pid}/ns/net`)) return;
  refuse("linux.namespaces network path", `${netns.path} is not that of ${id}, whose VM the container joins`);
}

/** Part of undoing: what is not there (any more) is as good as undone, and the first error is the one to report. */
async function quietly(context: RuntimeContext, what: string, promise: Promise<unknown>): Promise<void> {
  try {
    await promise;
  } catch (thrown) {
    const gone = isSandboxGone(thrown) || (thrown instanceof HearthError && thrown.code === "not-found");
    if (!gone) context.log.warn(`${what} after failure: ${describeError(thrown)}`);
  }
}

/** A new pseudo-terminal for a detached process; one that runs in the foreground has ours. */
function openTerminal(bundle: Bundle, options: CreateOptions, undo: AsyncDisposableStack): Pty | undefined {
  if (bundle.spec.process.terminal !== true || !options.detached) return undefined;
  const pty = openPty();
  undo.defer(() => {
    pty.master.close();
    pty.terminal.close();
  });
  const size = terminalSize(bundle, options);
  if (size.rows > 0) setWindowSize(pty.master.fd, size);
  return pty;
}

function terminalKind(bundle: Bundle, pty: Pty | undefined): "none" | "session" | "shared" {
  if (bundle.spec.process.terminal !== true) return "none";
  return pty === undefined ? "shared" : "session";
}

function terminalSize({ spec }: Bundle, { detached }: CreateOptions): WindowSize {
  if (spec.process.terminal !== true) return { rows: 0, columns: 0 };
  using own = detached ? undefined : ownTerminal();
  return consoleSizeOf(spec.process.consoleSize, own?.fd);
}

/** What the configuration says, else the size of our own terminal; 0 where unknown. */
export function consoleSizeOf(
  consoleSize: { readonly height: number | bigint; readonly width: number | bigint } | undefined,
  own: Fd | undefined,
): WindowSize {
  if (consoleSize !== undefined) {
    const [rows, columns] = [Number(consoleSize.height), Number(consoleSize.width)];
    if (rows > 0 && columns > 0 && rows <= 0xffff && columns <= 0xffff) return { rows, columns };
  }
  return own === undefined ? { rows: 0, columns: 0 } : getWindowSize(own);
}

/** Before the hooks, which may configure them. */
async function takeNetDevices({ spec }: Bundle, { identity }: PendingShim, signal: AbortSignal): Promise<void> {
  const devices = Object.entries(spec.linux?.netDevices ?? {});
  if (devices.length === 0) return;
  const { moveNetDevices } = await import("../../network/net-devices.ts");
  const named = devices.map(([name, { name: newName }]) => ({ name, newName: newName || name }));
  await moveNetDevices(named, `/proc/${identity.pid}/ns/net`, signal);
}

function newRecord(
  bundle: Bundle,
  id: string,
  vm: ContainerRecord["vm"],
  shim: PendingShim,
  cgroupDirs: readonly string[],
): ContainerRecord {
  return {
    version: 1,
    id,
    status: "creating",
    bundle: bundle.dir,
    rootfs: bundle.rootfs,
    created: new Date().toISOString(),
    owner: ownerName(process.getuid?.() ?? 0),
    annotations: bundle.spec.annotations ?? {},
    shim: shim.identity,
    vm,
    cgroupDirs,
    processJson: stringifySpec(bundle.spec.process),
    hooksJson: stringifySpec(bundle.spec.hooks ?? {}),
  };
}

/** The user's name in /etc/passwd, or the number of one that is not in it. */
function ownerName(uid: number): string {
  try {
    const users = readFileSync("/etc/passwd", "utf8").split("\n");
    return users.map((line) => line.split(":")).find((fields) => fields[2] === String(uid))?.[0] ?? String(uid);
  } catch {
    return String(uid);
  }
}

/** In the order of the spec. A failure ends the container as any other, and then the poststop hooks still run. */
async function runCreateHooks(record: ContainerRecord, { spec, dir }: Bundle): Promise<void> {
  const { prestart = [], createRuntime = [] } = spec.hooks ?? {};
  if (prestart.length + createRuntime.length === 0) return;
  const { runHooks } = await import("../../oci/run-hooks.ts");
  const state = hookState(record, "creating");
  await runHooks("prestart", prestart, state, dir);
  await runHooks("createRuntime", createRuntime, state, dir);
}

/** After the hooks: an engine such as Docker puts the interfaces into the namespace in one of them. Returns warnings. */
async function connectNetwork(
  { sandbox }: SandboxConnection,
  { netns, spec, dir }: Bundle,
  role: PodRole,
  { identity }: PendingShim,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<string[]> {
  if (netns.kind === "host" || role.kind === "member") return [];
  // Not the configuration's path: the sandbox process may be in another mount namespace, where it leads nowhere.
  const netnsPath = `/proc/${identity.pid}/ns/net`;
  // CRI's PortForward connects to localhost within a pod's namespace, on the host.
  const relayLocalhost = netns.kind === "path" && role.kind === "sandbox";
  const { warnings } = await sandbox.connectNetwork(
    { netnsPath, loopbackNameServers: loopbackNameServers(spec.mounts ?? [], dir), relayLocalhost },
    { timeoutMs, signal },
  );
  return warnings;
}

/** Of the resolv.conf that the container is given; docker names its own name server there in a hook. */
function loopbackNameServers(mounts: readonly Mount[], bundleDir: string): string[] {
  const source = mounts.find(({ destination }) => destination === "/etc/resolv.conf")?.source;
  if (source === undefined) return [];
  try {
    const text = readFileSync(resolve(bundleDir, source), "utf8");
    const servers = [...text.matchAll(/^\s*nameserver\s+(127\.\d+\.\d+\.\d+)\s*$/gm)].map(
      ([, address]) => address ?? "",
    );
    return [...new Set(servers)].slice(0, NAME_SERVERS_MAX);
  } catch (thrown) {
    throw toHearthError(thrown, `read name servers of ${source}`);
  }
}
