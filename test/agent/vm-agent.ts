/** Boots the built guest in QEMU with its agent, for tests and measurements; the shared directory goes over 9p. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AgentClient, connectAgent } from "../../src/agent/client/client.ts";
import { launchQemu } from "../../src/hypervisor/qemu/launch.ts";
import type { Qemu } from "../../src/hypervisor/qemu/qemu.ts";
import { silentLog } from "../../src/log.ts";
import { GUEST_RUN_DIR, type VmPaths, vmPaths } from "../../src/paths.ts";

export interface VmAgent extends AsyncDisposable {
  /** Replaced by tests that connect anew. */
  client: AgentClient;
  readonly hypervisor: Qemu;
  readonly paths: VmPaths;
  /** Milliseconds from the start of QEMU. */
  readonly bootMs: number;
  /** The console and QEMU's log, for the message of a failed test. */
  logs(): string;
}

/** Directory of the container roots on the host; `GUEST_SHARED` in the guest. */
export const GUEST_SHARED = `${GUEST_RUN_DIR}/shared`;

const SHARED_STORAGE = {
  driver: "9p",
  source: "hearthShared",
  fstype: "9p",
  options: ["trans=virtio", "version=9p2000.L", "msize=524288", "cache=mmap"],
  mountPoint: GUEST_SHARED,
};

export interface VmAgentOptions {
  readonly maxVcpus?: number;
  /** No shared directory, and memory that virtiofsd can share: one may be plugged. Default false. */
  readonly isBare?: boolean;
}

export async function bootVmAgent(guestDir: string, options: VmAgentOptions = {}): Promise<VmAgent> {
  const { isBare = false } = options;
  const dir = mkdtempSync(join(tmpdir(), "hearth-agent-vm-"));
  const paths = vmPaths(dir, "t");
  mkdirSync(paths.shared, { recursive: true });
  const startedAt = performance.now();
  const logs = (): string => [paths.qemuLog, paths.consoleLog].map((file) => readFileSync(file, "utf8")).join("\n");
  const hypervisor = await launchQemu(
    {
      vmId: "t",
      qemuPath: "/usr/bin/qemu-system-x86_64",
      accel: "tcg",
      machine: "q35",
      kernel: join(guestDir, "vmlinux"),
      initrd: join(guestDir, "initrd.cpio"),
      image: join(guestDir, "rootfs.erofs"),
      kernelParams: [],
      vcpus: 1,
      maxVcpus: options.maxVcpus ?? 1,
      memoryMib: 512,
      maxMemoryMib: 2048,
      sharedMemory: isBare,
      qmpSocket: paths.qmpSocket,
      agentSocket: paths.agentSocket,
      consoleLog: paths.consoleLog,
      qemuLog: paths.qemuLog,
      devices: isBare
        ? []
        : [{ kind: "shared-directory-9p", tag: "hearthShared", path: paths.shared, readOnly: false }],
      seccomp: false,
    },
    { log: silentLog, signal: AbortSignal.timeout(60_000) },
  );
  try {
    const signal = AbortSignal.timeout(60_000);
    await hypervisor.agentReady(signal);
    const client = await connectAgent({ transport: "virtio-serial", socket: paths.agentSocket }, { signal });
    const bootMs = performance.now() - startedAt;
    await client.agent.createSandbox({
      sandboxId: "t",
      hostname: "guest",
      storages: isBare ? [] : [SHARED_STORAGE],
    });
    const booted: VmAgent = {
      client,
      hypervisor,
      paths,
      bootMs,
      logs,
      async [Symbol.asyncDispose]() {
        await booted.client[Symbol.asyncDispose]();
        await hypervisor[Symbol.asyncDispose]();
        rmSync(dir, { recursive: true, force: true });
      },
    };
    return booted;
  } catch (thrown) {
    await hypervisor[Symbol.asyncDispose]();
    const said = logs();
    rmSync(dir, { recursive: true, force: true });
    throw new Error(`boot guest: ${said}`, { cause: thrown });
  }
}
