/** A QEMU under our control, as a Hypervisor: its run state, its agent port, its size, and what is plugged into it. */
import { HearthError } from "../../errors.ts";
import { QEMU_END_WAIT_MS } from "../../limits.ts";
import type { Log } from "../../log.ts";
import type { ProcessIdentity } from "../../sys/process-identity.ts";
import { sleep, withDeadline } from "../../util/wait.ts";
import type { AddedDevice, Device, Hypervisor, HypervisorEnd, SaveOptions, VmRunState } from "../interface.ts";
import { AGENT_CHARDEV_ID, AGENT_PORT_ID } from "./argv.ts";
import {
  type HotplugContext,
  plugDevice,
  plugMemory,
  plugVcpus,
  querySize,
  readSlots,
  unplug,
  type VmSize,
  vcpuRoom,
} from "./hotplug.ts";
import { saveVm } from "./migration.ts";
import { endError, type QemuProcess } from "./qemu-process.ts";
import type { QmpClient } from "./qmp/client.ts";
import { type MachineType, SlotTable } from "./slots.ts";

export interface QemuParts {
  /** Both are the Qemu's to dispose of from now on. */
  readonly process: QemuProcess;
  readonly qmp: QmpClient;
  readonly machine: MachineType;
  readonly sharedMemory: boolean;
  readonly log: Log;
}

export class Qemu implements Hypervisor {
  readonly process: ProcessIdentity;
  readonly ended: Promise<HypervisorEnd>;
  readonly #parts: QemuParts;
  readonly #hotplug: HotplugContext;
  /** Replaced each time the guest closes its port. */
  #agentOpen = quietResolvers();
  /** Replaced each time the guest opens its port. */
  #agentReopened = quietResolvers();
  #end: HypervisorEnd | undefined;
  #size: VmSize = { vcpus: 0, memoryMib: 0 };
  #disposed: Promise<void> | undefined;
  /** Plugging is one at a time: ids and slots are looked up and then taken. */
  #plugging: Promise<unknown> = Promise.resolve();

  private constructor(parts: QemuParts) {
    this.#parts = parts;
    this.process = parts.process.identity;
    this.ended = parts.process.ended;
    const { qmp, machine, sharedMemory } = parts;
    this.#hotplug = { qmp, machine, sharedMemory, slots: new SlotTable(machine) };
    qmp.onEvent("VSERPORT_CHANGE", ({ id, open }) => {
      if (id === AGENT_PORT_ID) this.#agentPortChanged(open);
    });
    void this.ended.then((end) => {
      this.#end = end;
      const error = endError("use VM", end);
      this.#agentOpen.reject(error);
      this.#agentReopened.reject(error);
      qmp.close(error);
    });
  }

  /** Listens for the agent's port from now on and asks for the VM's size. */
  static async attach(parts: QemuParts, signal?: AbortSignal): Promise<Qemu> {
    const qemu = new Qemu(parts);
    await qemu.#readSize(signal);
    return qemu;
  }

  /** Asks QEMU for everything we would know had we been there from its start. */
  async refresh(signal?: AbortSignal): Promise<void> {
    const { qmp } = this.#parts;
    await readSlots(this.#hotplug, signal);
    await this.#readSize(signal);
    const agent = (await qmp.run("query-chardev", {}, { signal })).find(({ label }) => label === AGENT_CHARDEV_ID);
    if (agent !== undefined) this.#agentPortChanged(agent["frontend-open"]);
  }

  get vcpus(): number {
    return this.#size.vcpus;
  }

  get memoryMib(): number {
    return this.#size.memoryMib;
  }

  async runState(signal?: AbortSignal): Promise<VmRunState> {
    if (this.#end !== undefined) return "ended";
    const { status } = await this.#explained(
      "get run state of VM",
      this.#parts.qmp.run("query-status", {}, { signal }),
    );
    return runStateOf(status);
  }

  async agentReady(signal?: AbortSignal): Promise<void> {
    await withDeadline("agent port", this.#agentOpen.promise, { signal });
  }

  async agentReopened(signal?: AbortSignal): Promise<void> {
    await withDeadline("agent port", this.#agentReopened.promise, { signal });
  }

  async pause(signal?: AbortSignal): Promise<void> {
    await this.#explained("pause VM", this.#parts.qmp.run("stop", {}, { signal }));
  }

  async resume(signal?: AbortSignal): Promise<void> {
    await this.#explained("resume VM", this.#parts.qmp.run("cont", {}, { signal }));
  }

  async save(options: SaveOptions, signal?: AbortSignal): Promise<void> {
    await this.#explained("save VM", saveVm(this.#parts.qmp, options, signal));
  }

  async addVcpus(count: number, signal?: AbortSignal): Promise<readonly string[]> {
    return await this.#plug("add vCPUs", () => this.#resize(() => plugVcpus(this.#hotplug, count, signal)));
  }

  async vcpuRoom(signal?: AbortSignal): Promise<number> {
    return await vcpuRoom(this.#hotplug, signal);
  }

  async addMemory(mib: number, signal?: AbortSignal): Promise<AddedDevice> {
    return await this.#plug("add memory", () => this.#resize(() => plugMemory(this.#hotplug, mib, signal)));
  }

  async addDevice(device: Device, signal?: AbortSignal): Promise<AddedDevice> {
    return await this.#plug(`add ${device.kind}`, () => plugDevice(this.#hotplug, device, signal));
  }

  async removeDevice(id: string, signal?: AbortSignal): Promise<void> {
    await this.#plug(`remove device ${id}`, () => this.#resize(() => unplug(this.#hotplug, id, signal)));
  }

  /** Gives up control: QEMU runs on, and whoever connects next has it. */
  release(): void {
    this.#disposed ??= Promise.resolve();
    this.#parts.qmp.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  async #dispose(): Promise<void> {
    await this.#parts.process[Symbol.asyncDispose]();
    this.#parts.qmp.close();
  }

  async #plug<T>(step: string, work: () => Promise<T>): Promise<T> {
    const turn = this.#plugging.then(work);
    this.#plugging = turn.catch(() => undefined);
    return await this.#explained(step, turn);
  }

  /** The size is read again after a failure too: some of several may be there. */
  async #resize<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } finally {
      await this.#readSize().catch(() => undefined);
    }
  }

  async #readSize(signal?: AbortSignal): Promise<void> {
    this.#size = await querySize(this.#parts.qmp, signal);
  }

  /** When QMP broke because QEMU is ending, the error says how it ended. */
  async #explained<T>(step: string, work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (thrown) {
      if (!(thrown instanceof HearthError) || thrown.code !== "unavailable") throw thrown;
      if (this.#parts.qmp.state.kind !== "closed") throw thrown;
      const waiting = new AbortController();
      const timeout = sleep(QEMU_END_WAIT_MS, waiting.signal).catch(() => undefined);
      const end = await Promise.race([this.ended, timeout.then(() => undefined)]);
      waiting.abort();
      throw end === undefined ? thrown : endError(step, end, thrown);
    }
  }

  #agentPortChanged(open: boolean): void {
    if (open) {
      this.#agentOpen.resolve();
      this.#agentReopened.resolve();
      this.#agentReopened = quietResolvers();
      return;
    }
    // Those who wait go on waiting; those who come now wait for the next opening.
    const before = this.#agentOpen;
    this.#agentOpen = quietResolvers();
    this.#agentOpen.promise.then(before.resolve, before.reject);
  }
}

/** Its rejection is nobody's fault when nobody waits. */
function quietResolvers(): PromiseWithResolvers<void> {
  const resolvers = Promise.withResolvers<void>();
  resolvers.promise.catch(() => undefined);
  return resolvers;
}

/** Source: QEMU qapi/run-state.json. */
function runStateOf(status: string): VmRunState {
  switch (status) {
    case "running":
    case "suspended":
      return "running";
    case "internal-error":
    case "io-error":
    case "guest-panicked":
    case "watchdog":
    case "shutdown":
    case "colo":
      return "failed";
    default:
      // debug, inmigrate, postmigrate, prelaunch, finish-migrate, paused, restore-vm, save-vm
      return "paused";
  }
}
