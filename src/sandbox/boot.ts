/** Boots a VM: directory and lock, shared directory, QEMU, agent, sandbox in the guest; undone in reverse when a step fails. */
import { mkdirSync } from "node:fs";
import { connectAgent } from "../agent/client/client.ts";
import { HearthError } from "../errors.ts";
import { launchQemu } from "../hypervisor/qemu/launch.ts";
import type { Log } from "../log.ts";
import type { VmPaths } from "../paths.ts";
import { openSharedDirectory, SHARED_DIRECTORY_TAG, type SharedDirectory } from "../storage/shared-directory.ts";
import { writeJsonAtomic } from "../sys/atomic-file.ts";
import { tryLock } from "../sys/lock.ts";
import { removeTreeWithoutMounts } from "../sys/mount.ts";
import { ownIdentity, type ProcessIdentity } from "../sys/process-identity.ts";
import { Vm } from "../vm/vm.ts";
import type { VmConfig } from "../vm/vm-config.ts";
import { GUEST_SHARED_DIR } from "./guest-spec.ts";
import { bootingRecord } from "./record.ts";
import type { Steps } from "./steps.ts";

export interface BootRequest {
  readonly vmId: string;
  readonly paths: VmPaths;
  readonly config: VmConfig;
  /** Disposed after everything of the VM: its directory and lock. Owned by the result. */
  readonly foundations: AsyncDisposableStack;
}

/** The VM runs, its agent answered and the shared directory is mounted in it. The caller owns the result. */
export async function bootVm(request: BootRequest, steps: Steps, log: Log): Promise<Vm> {
  const { config, vmId, paths, foundations } = request;
  await using stack = new AsyncDisposableStack();
  stack.use(foundations);
  const owner = ownIdentity();
  const record = (processes: readonly ProcessIdentity[]) =>
    writeJsonAtomic(paths.record, bootingRecord({ vmId, paths, config, owner }, processes));
  const shared = await steps.run("share-directory", config.bootTimeoutMs, async (signal) =>
    stack.use(
      await openSharedDirectory({ paths, sharedFs: config.sharedFs, virtiofsdPath: config.virtiofsdPath, log, signal }),
    ),
  );
  record(shared.processes);
  const hypervisor = await steps.run("launch-qemu", config.bootTimeoutMs, async (signal) =>
    stack.use(
      await launchQemu(
        {
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
          devices: [shared.device],
          seccomp: config.seccomp,
        },
        { log, signal },
      ),
    ),
  );
  record([...shared.processes, hypervisor.process]);
  const agent = await steps.run("wait-for-agent", config.bootTimeoutMs, async (signal) => {
    await hypervisor.agentReady(signal);
    const client = await connectAgent(paths.agentSocket, { signal });
    stack.defer(() => client.close());
    return client;
  });
  await steps.run("create-sandbox", config.bootTimeoutMs, (signal) =>
    agent.agent.createSandbox({ sandboxId: vmId, hostname: "hearth", storages: [sharedStorage(shared)] }, { signal }),
  );
  stack.move();
  return new Vm({ vmId, paths, config, hypervisor, agent, shared, owner, foundations });
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
