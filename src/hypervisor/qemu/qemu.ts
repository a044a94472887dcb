/** A running QEMU: its state, and what is added to and taken from it, over QMP. */
import { HearthError } from "../../errors.ts";
import { MEMORY_BLOCK_MIB, QEMU_SAVE_POLL_MS } from "../../limits.ts";
import type { Log } from "../../log.ts";
import { asFd } from "../../sys/fd.ts";
import type { ChildProcess } from "../../sys/process.ts";
import type { ProcessIdentity } from "../../sys/process-identity.ts";
import { sleep } from "../../util/wait.ts";
import type {
  AddedDevice,
  BootOptions,
  Device,
  Hypervisor,
  HypervisorEnd,
  SaveOptions,
  VmRunState,
} from "../interface.ts";
import type { QmpClient } from "./qmp/client.ts";

export interface QemuParts {
  readonly options: BootOptions;
  readonly child: ChildProcess;
  readonly process: ProcessIdentity;
  readonly qmp: QmpClient;
  readonly ended: Promise<HypervisorEnd>;
  readonly log: Log;
}

export class Qemu implements Hypervisor {
  readonly process: ProcessIdentity;
  readonly ended: Promise<HypervisorEnd>;
  readonly #parts: QemuParts;
  readonly #agentOpen = Promise.withResolvers<void>();
  #vcpus: number;
  #memoryMib: number;
  #nextMemory = 0;
  #disposed: Promise<void> | undefined;

  constructor(parts: QemuParts) {
    this.#parts = parts;
    this.process = parts.process;
    this.ended = parts.ended;
    this.#vcpus = parts.options.vcpus;
    this.#memoryMib = parts.options.memoryMib;
    this.#agentOpen.promise.catch(() => {});
    parts.qmp.onEvent(({ event, data }) => {
      parts.log.debug("qmp event", { event });
      if (event === "VSERPORT_CHANGE" && data["id"] === "agent-port" && data["open"] === true)
        this.#agentOpen.resolve();
    });
    void parts.ended.then((end) => {
      const how = end.signal ?? `exit status ${end.exitCode}`;
      this.#agentOpen.reject(new HearthError("unavailable", `qemu ended (${how}): ${end.logTail}`));
    });
  }

  get vcpus(): number {
    return this.#vcpus;
  }

  get memoryMib(): number {
    return this.#memoryMib;
  }

  async runState(signal?: AbortSignal): Promise<VmRunState> {
    const answer = await this.#parts.qmp.execute("query-status", {}, { signal });
    const status = field(answer, "status");
    if (status === "running") return "running";
    if (status === "paused" || status === "prelaunch" || status === "postmigrate") return "paused";
    return status === "inmigrate" ? "booting" : "ended";
  }

  async agentReady(signal?: AbortSignal): Promise<void> {
    const aborted = Promise.withResolvers<never>();
    const onAbort = () => aborted.reject(signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      await Promise.race([this.#agentOpen.promise, aborted.promise]);
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }

  async pause(signal?: AbortSignal): Promise<void> {
    await this.#parts.qmp.execute("stop", {}, { signal });
  }

  async resume(signal?: AbortSignal): Promise<void> {
    await this.#parts.qmp.execute("cont", {}, { signal });
  }

  async save(options: SaveOptions, signal?: AbortSignal): Promise<void> {
    const { qmp } = this.#parts;
    const capabilities = [{ capability: "x-ignore-shared", state: options.ignoreShared }];
    await qmp.execute("migrate-set-capabilities", { capabilities }, { signal });
    await qmp.execute("migrate", { uri: `exec:cat > '${options.statePath}'` }, { signal });
    for (;;) {
      const status = field(await qmp.execute("query-migrate", {}, { signal }), "status");
      if (status === "completed") return;
      if (status === "failed" || status === "cancelled")
        throw new HearthError("internal", `save VM: migration ${status}`);
      await sleep(QEMU_SAVE_POLL_MS, signal);
    }
  }

  async addVcpus(count: number, signal?: AbortSignal): Promise<void> {
    const answer = await this.#parts.qmp.execute("query-hotpluggable-cpus", {}, { signal });
    const slots = Array.isArray(answer) ? answer.filter((slot) => field(slot, "qom-path") === undefined) : [];
    if (slots.length < count) {
      throw new HearthError("resource-exhausted", `add ${count} vCPUs: ${slots.length} slots are left`);
    }
    // The list is from the highest to the lowest.
    for (const slot of slots.toReversed().slice(0, count)) {
      const props = field(slot, "props");
      const driver = field(slot, "type");
      if (typeof driver !== "string" || typeof props !== "object") throw new HearthError("internal", "read CPU slots");
      await this.#parts.qmp.execute("device_add", { driver, id: `cpu${this.#vcpus}`, ...props }, { signal });
      this.#vcpus++;
    }
  }

  async addMemory(mib: number, signal?: AbortSignal): Promise<void> {
    if (mib <= 0 || mib % MEMORY_BLOCK_MIB !== 0) {
      throw new HearthError("invalid-argument", `add memory: ${mib} MiB is no multiple of ${MEMORY_BLOCK_MIB}`);
    }
    const { qmp, options } = this.#parts;
    const id = `mem${this.#nextMemory++}`;
    const backend = options.sharedMemory
      ? { "qom-type": "memory-backend-memfd", share: true }
      : { "qom-type": "memory-backend-ram" };
    await qmp.execute("object-add", { ...backend, id, size: mib * 1024 * 1024 }, { signal });
    try {
      await qmp.execute("device_add", { driver: "pc-dimm", id: `dimm-${id}`, memdev: id }, { signal });
    } catch (error) {
      await qmp.execute("object-del", { id }, { signal });
      throw error;
    }
    this.#memoryMib += mib;
  }

  async addDevice(device: Device, signal?: AbortSignal): Promise<AddedDevice> {
    switch (device.kind) {
      case "nic":
        return await this.#addNic(device, signal);
      case "block":
        return await this.#addBlock(device, signal);
      default:
        throw new HearthError("unimplemented", `add ${device.kind} to a running VM`);
    }
  }

  async #addNic(device: Device & { kind: "nic" }, signal?: AbortSignal): Promise<AddedDevice> {
    const { qmp } = this.#parts;
    const [tap] = device.tapFds;
    if (tap === undefined) throw new HearthError("invalid-argument", "add NIC: no tap");
    const fdname = `tap-${device.id}`;
    await qmp.execute("getfd", { fdname }, { signal, fds: [asFd(tap)] });
    await qmp.execute("netdev_add", { type: "tap", id: `net-${device.id}`, fd: fdname }, { signal });
    await qmp.execute(
      "device_add",
      { driver: "virtio-net-pci", id: device.id, netdev: `net-${device.id}`, mac: device.mac, host_mtu: device.mtu },
      { signal },
    );
    return { id: device.id, pciPath: undefined };
  }

  async #addBlock(device: Device & { kind: "block" }, signal?: AbortSignal): Promise<AddedDevice> {
    const { qmp } = this.#parts;
    const node = `node-${device.id}`;
    const file = { driver: "file", filename: device.path };
    await qmp.execute(
      "blockdev-add",
      { driver: device.format, "node-name": node, "read-only": device.readOnly, file },
      { signal },
    );
    await qmp.execute(
      "device_add",
      { driver: "virtio-blk-pci", id: device.id, drive: node, serial: device.id },
      { signal },
    );
    return { id: device.id, pciPath: undefined };
  }

  async removeDevice(id: string, signal: AbortSignal = AbortSignal.timeout(10_000)): Promise<void> {
    const gone = this.#parts.qmp.waitEvent(
      ({ event, data }) => event === "DEVICE_DELETED" && data["device"] === id,
      signal,
    );
    await this.#parts.qmp.execute("device_del", { id }, { signal });
    await gone;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  async #dispose(): Promise<void> {
    this.#parts.child.kill(9);
    await this.ended;
    await this.#parts.qmp[Symbol.asyncDispose]();
  }
}

function field(value: unknown, name: string): unknown {
  if (typeof value !== "object" || value === null) return undefined;
  return new Map(Object.entries(value)).get(name);
}
