/** Boots a VM: directory and lock, shared directory, QEMU, agent, sandbox in the guest; undone in reverse when a step fails. */
import { mkdirSync } from "node:fs";
import { type AgentAddress, type AgentClient, connectAgent } from "../agent/client/client.ts";
import { HearthError } from "../errors.ts";
import type { BootOptions, Hypervisor } from "../hypervisor/interface.ts";
import { type LaunchContext, launchQemu } from "../hypervisor/qemu/launch.ts";
import { TSC_MEASURING_MS } from "../limits.ts";
import type { Log } from "../log.ts";
import type { VmPaths } from "../paths.ts";
import { openSharedDirectory, SHARED_DIRECTORY_TAG, type SharedDirectory } from "../storage/shared-directory.ts";
import { writeJsonAtomic } from "../sys/atomic-file.ts";
import { tryLock } from "../sys/lock.ts";
import { removeTreeWithoutMounts } from "../sys/mount.ts";
import { ownIdentity, type ProcessIdentity } from "../sys/process-identity.ts";
import { measureTscKhz } from "../sys/tsc.ts";
import type { ReservedCid } from "../sys/vsock.ts";
import { Vm } from "../vm/vm.ts";
import type { VmConfig } from "../vm/vm-config.ts";
import { GUEST_SHARED_DIR } from "./guest-spec.ts";
import { bootingRecord } from "./record.ts";
import type { Steps } from "./steps.ts";

export interface BootRequest {
  readonly vmId: string;
  readonly paths: VmPaths;
  readonly config: VmConfig;
  /** For a VM whose agent is reached over vsock. Disposed of by foundations, and as soon as QEMU has it. */
  readonly reservedCid: ReservedCid | undefined;
  /** Disposed after everything of the VM: its directory and lock. Owned by the result. */
  readonly foundations: AsyncDisposableStack;
}

/** The VM runs, its agent answered and the shared directory is mounted in it. The caller owns the result. */
export async function bootVm(request: BootRequest, steps: Steps, log: Log): Promise<Vm> {
  const { config, foundations } = request;
  await using stack = new AsyncDisposableStack();
  stack.use(foundations);
  const shared = stack.use(await shareDirectory(request, steps, log));
  const hypervisor = await steps.run("launch-qemu", config.bootTimeoutMs, async (signal) =>
    stack.use(await launchVm(request, { devices: [shared.device] }, { log, signal })),
  );
  recordProcesses(request, [...shared.processes, hypervisor.process]);
  const agent = await greetAgent(request, hypervisor, steps);
  stack.defer(() => agent.close());
  await createSandbox(request, agent, shared, steps);
  stack.move();
  return new Vm({ ...request, agentAddress: agentAddress(request), hypervisor, agent, shared, owner: ownIdentity() });
}

export async function shareDirectory(request: BootRequest, steps: Steps, log: Log): Promise<SharedDirectory> {
  const { paths, config } = request;
  await using undo = new AsyncDisposableStack();
  const shared = await steps.run("share-directory", config.bootTimeoutMs, async (signal) =>
    undo.use(
      await openSharedDirectory({ paths, sharedFs: config.sharedFs, virtiofsdPath: config.virtiofsdPath, log, signal }),
    ),
  );
  recordProcesses(request, shared.processes);
  undo.move();
  return shared;
}

/** Starts QEMU with what booting, saving and restoring have in common, and `options`. The caller owns the result. */
export async function launchVm(
  request: BootRequest,
  options: Partial<BootOptions>,
  context: LaunchContext,
): Promise<Hypervisor> {
  try {
    const measures = request.config.accel === "tcg" && options.restore === undefined;
    const tscKhz = measures ? await measureTscKhz(TSC_MEASURING_MS) : undefined;
    return await launchQemu({ ...bootOptions(request), ...options, tscKhz }, context);
  } finally {
    // With this copy open, the end of QEMU would not be the end of the connection to its guest.
    request.reservedCid?.[Symbol.dispose]();
  }
}

function bootOptions({ vmId, paths, config, reservedCid }: BootRequest): BootOptions {
  return {
    vmId,
    qemuPath: config.qemuPath,
    accel: config.accel,
    machine: config.machine,
    kernel: config.kernel,
    initrd: config.initrd,
    image: config.image,
    kernelParams: config.kernelParams,
    vcpus: config.vcpus,
    maxVcpus: config.maxVcpus,
    memoryMib: config.memoryMib,
    maxMemoryMib: config.maxMemoryMib,
    sharedMemory: config.sharedFs === "virtio-fs",
    qmpSocket: paths.qmpSocket,
    agentSocket: paths.agentSocket,
    consoleLog: paths.consoleLog,
    qemuLog: paths.qemuLog,
    devices: [],
    seccomp: config.seccomp,
    ...(reservedCid === undefined ? {} : { vsock: reservedCid }),
  };
}

/** So that they can be ended should this process die: to be called as soon as one was started. */
export function recordProcesses(request: BootRequest, processes: readonly ProcessIdentity[]): void {
  const vm = { ...request, agentAddress: agentAddress(request), owner: ownIdentity() };
  writeJsonAtomic(request.paths.record, bootingRecord(vm, processes));
}

export function agentAddress({ paths, reservedCid }: BootRequest): AgentAddress {
  if (reservedCid === undefined) return { transport: "virtio-serial", socket: paths.agentSocket };
  return { transport: "vsock", cid: reservedCid.cid };
}

/** Once the guest has opened the agent's port. The caller closes it. */
export async function greetAgent(request: BootRequest, hypervisor: Hypervisor, steps: Steps): Promise<AgentClient> {
  return await steps.run("wait-for-agent", request.config.bootTimeoutMs, async (signal) => {
    await hypervisor.agentReady(signal);
    return await connectAgent(agentAddress(request), { signal });
  });
}

export async function createSandbox(
  { vmId, config }: BootRequest,
  agent: AgentClient,
  shared: SharedDirectory,
  steps: Steps,
): Promise<void> {
  await steps.run("create-sandbox", config.bootTimeoutMs, (signal) =>
    agent.agent.createSandbox(sandboxRequest(vmId, shared), { signal }),
  );
}

export function sandboxRequest(vmId: string, shared: SharedDirectory) {
  return { sandboxId: vmId, hostname: vmId, storages: [sharedStorage(shared)] };
}

/** Makes `<runDir>/vm/<vmId>` 0700 and takes its lock for life. Fails with already-exists for an id in use. */
export function makeVmDirectory(paths: VmPaths, foundations: AsyncDisposableStack): void {
  mkdirSync(paths.dir, { recursive: true, mode: 0o700 });
  const lock = tryLock(paths.lock);
  if (lock === undefined)
    throw new HearthError("already-exists", `use VM directory ${paths.dir}: it has a living owner`);
  foundations.defer(async () => {
    await removeTreeWithoutMounts(paths.dir);
    await lock[Symbol.asyncDispose]();
  });
}

function sharedStorage(shared: SharedDirectory) {
  const driver = shared.device.kind === "shared-directory-virtio-fs" ? "virtio-fs" : "9p";
  return {
    driver,
    source: SHARED_DIRECTORY_TAG,
    fstype: driver === "virtio-fs" ? "virtiofs" : "9p",
    options: [...shared.guestMountOptions],
    mountPoint: GUEST_SHARED_DIR,
  };
}
