/** Plugging devices, vCPUs and memory into a running VM and taking them out, each step undone when a later one fails. */
import { statSync } from "node:fs";
import { HearthError, toHearthError } from "../../errors.ts";
import { MEMORY_BLOCK_MIB, UNPLUG_TIMEOUT_MS } from "../../limits.ts";
import { asFd } from "../../sys/fd.ts";
import type { AddedDevice, Device } from "../interface.ts";
import { MEMORY_SLOTS, SHARED_DIRECTORY_ID } from "./argv.ts";
import {
  backendId,
  blockBackend,
  type DeviceSpelling,
  type PciPlace,
  virtioBlk,
  virtioFs,
  virtioNet,
} from "./device.ts";
import type { QmpClient } from "./qmp/client.ts";
import type { QmpReturn } from "./qmp/vocabulary.ts";
import { type MachineType, pciPathOf, type SlotTable } from "./slots.ts";
import { roomForVcpus, type TcgThreads, withFreeTcgRegions } from "./tcg-regions.ts";

export interface HotplugContext {
  readonly qmp: QmpClient;
  readonly machine: MachineType;
  readonly slots: SlotTable;
  readonly sharedMemory: boolean;
}

const MIB = 1024 * 1024;
/** Where QEMU keeps devices that have an id. */
const PERIPHERALS = "/machine/peripheral";

/** The caller keeps its descriptors and closes them. "unimplemented" for 9p, which QEMU cannot plug. */
export async function plugDevice(context: HotplugContext, device: Device, signal?: AbortSignal): Promise<AddedDevice> {
  switch (device.kind) {
    case "nic":
      return await plugNic(context, device, signal);
    case "block":
      return await plugBlock(context, device, signal);
    case "shared-directory-virtio-fs":
      return await plugVirtioFs(context, device, signal);
    case "shared-directory-9p":
      throw new HearthError("unimplemented", "add 9p shared directory: only possible at boot");
  }
}

async function plugNic(
  context: HotplugContext,
  nic: Device & { readonly kind: "nic" },
  signal: AbortSignal | undefined,
): Promise<AddedDevice> {
  const { qmp } = context;
  if (nic.tapFds.length === 0) throw new HearthError("invalid-argument", `add NIC ${nic.id}: no tap descriptor`);
  return await plugWithBackend(context, nic.id, signal, {
    backend: async (undo) => {
      const names: string[] = [];
      for (const [index, fd] of nic.tapFds.entries()) {
        const fdname = `${nic.id}-tap${index}`;
        await qmp.run("getfd", { fdname }, { signal, fds: [asFd(fd)] });
        // Gone from QEMU's list of names once the backend has it, so the undo may fail.
        undo.defer(() => ignore(qmp.run("closefd", { fdname })));
        names.push(fdname);
      }
      const [only] = names;
      const fds = names.length === 1 && only !== undefined ? { fd: only } : { fds: names.join(":") };
      await qmp.run("netdev_add", { type: "tap", id: backendId(nic.id), ...fds }, { signal });
      undo.defer(() => ignore(qmp.run("netdev_del", { id: backendId(nic.id) })));
    },
    device: (place) => virtioNet(nic.id, { mac: nic.mac, queues: nic.tapFds.length }, place),
  });
}

async function plugBlock(
  context: HotplugContext,
  block: Device & { readonly kind: "block" },
  signal: AbortSignal | undefined,
): Promise<AddedDevice> {
  const { qmp } = context;
  return await plugWithBackend(context, block.id, signal, {
    backend: async (undo) => {
      const backend = blockBackend(block.id, { ...block, isDevice: isBlockDevice(block.path) });
      await qmp.run("blockdev-add", backend, { signal });
      undo.defer(() => ignore(qmp.run("blockdev-del", { "node-name": backend["node-name"] })));
    },
    device: (place) => virtioBlk(block.id, place),
  });
}

async function plugVirtioFs(
  context: HotplugContext,
  shared: Device & { readonly kind: "shared-directory-virtio-fs" },
  signal: AbortSignal | undefined,
): Promise<AddedDevice> {
  const { qmp } = context;
  const id = SHARED_DIRECTORY_ID;
  if (!context.sharedMemory) {
    throw new HearthError("failed-precondition", "add virtio-fs device: guest memory is not shared");
  }
  return await plugWithBackend(context, id, signal, {
    backend: async (undo) => {
      const addr = { type: "unix", data: { path: shared.socketPath } };
      const backend = { type: "socket", data: { addr, server: false } };
      await qmp.run("chardev-add", { id: backendId(id), backend }, { signal });
      undo.defer(() => ignore(qmp.run("chardev-remove", { id: backendId(id) })));
    },
    device: (place) => virtioFs(id, shared.tag, place),
  });
}

interface DeviceParts {
  readonly backend: (undo: AsyncDisposableStack) => Promise<void>;
  readonly device: (place: PciPlace) => DeviceSpelling;
}

async function plugWithBackend(
  { qmp, machine, slots }: HotplugContext,
  id: string,
  signal: AbortSignal | undefined,
  parts: DeviceParts,
): Promise<AddedDevice> {
  await using undo = new AsyncDisposableStack();
  const place = slots.take(id);
  undo.defer(() => slots.free(id));
  await parts.backend(undo);
  const { driver, properties } = parts.device(place);
  await qmp.run("device_add", { driver, id, ...properties }, { signal });
  undo.move();
  return { id, pciPath: pciPathOf(machine, place) };
}

type CpuSlot = QmpReturn<"query-hotpluggable-cpus">[number];

/** Plugs vCPUs into the lowest free places; returns their ids. */
export async function plugVcpus({ qmp }: HotplugContext, count: number, signal?: AbortSignal): Promise<string[]> {
  if (!Number.isInteger(count) || count < 0) throw new HearthError("invalid-argument", `add ${count} vCPUs`);
  const all = await qmp.run("query-hotpluggable-cpus", {}, { signal });
  const free = all.filter((slot) => slot["qom-path"] === undefined).sort(byAddress);
  if (free.length < count) {
    throw new HearthError("resource-exhausted", `add ${count} vCPUs: only ${free.length} more are possible`, {
      facts: { wanted: count, free: free.length },
    });
  }
  return await withFreeTcgRegions(qmp, count, threadsOf(all), () => plugInto(qmp, free.slice(0, count), signal));
}

/** So many more vCPUs the emulator has room for at present. */
export async function vcpuRoom({ qmp }: HotplugContext, signal?: AbortSignal): Promise<number> {
  return await roomForVcpus(qmp, threadsOf(await qmp.run("query-hotpluggable-cpus", {}, { signal })));
}

function threadsOf(slots: readonly CpuSlot[]): TcgThreads {
  return { vcpus: slots.filter((slot) => slot["qom-path"] !== undefined).length, maxVcpus: slots.length };
}

async function plugInto(qmp: QmpClient, slots: readonly CpuSlot[], signal: AbortSignal | undefined): Promise<string[]> {
  const ids: string[] = [];
  for (const slot of slots) {
    const id = cpuId(slot);
    await qmp.run("device_add", { driver: slot.type, id, ...slot.props }, { signal });
    ids.push(id);
  }
  return ids;
}

const CPU_ADDRESS = ["socket-id", "die-id", "core-id", "thread-id"] as const;

function byAddress(a: CpuSlot, b: CpuSlot): number {
  for (const part of CPU_ADDRESS) {
    const difference = (a.props[part] ?? 0) - (b.props[part] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

function cpuId(slot: CpuSlot): string {
  return `cpu${CPU_ADDRESS.map((part) => `-${slot.props[part] ?? 0}`).join("")}`;
}

/**
 * Where memory goes that is added beside these devices. QEMU itself would put it right behind the root image, whose end
 * is no multiple of the guest's memory block, and the guest would refuse it. Undefined: wherever QEMU likes.
 */
function addressAfter(devices: QmpReturn<"query-memory-devices">): number | undefined {
  const block = MEMORY_BLOCK_MIB * MIB;
  const ends = devices.map(({ data }) => (data.addr ?? data.memaddr ?? 0) + data.size);
  return ends.length === 0 ? undefined : Math.ceil(Math.max(...ends) / block) * block;
}

/** Plugs one module of memory. */
export async function plugMemory(
  { qmp, sharedMemory }: HotplugContext,
  mib: number,
  signal?: AbortSignal,
): Promise<AddedDevice> {
  if (!Number.isInteger(mib) || mib <= 0 || mib % MEMORY_BLOCK_MIB !== 0) {
    throw new HearthError("invalid-argument", `add ${mib} MiB of memory: not a multiple of ${MEMORY_BLOCK_MIB}`);
  }
  const devices = await qmp.run("query-memory-devices", {}, { signal });
  const taken = new Set(devices.map(({ data }) => data.id));
  const index = Array.from({ length: MEMORY_SLOTS }, (_, slot) => slot).find((slot) => !taken.has(`memory${slot}`));
  if (index === undefined) {
    throw new HearthError("resource-exhausted", `add ${mib} MiB of memory: all ${MEMORY_SLOTS} slots are taken`);
  }
  const id = `memory${index}`;
  const type = sharedMemory ? "memory-backend-memfd" : "memory-backend-ram";
  await using undo = new AsyncDisposableStack();
  const backend = { "qom-type": type, id: backendId(id), size: mib * MIB, share: sharedMemory };
  await qmp.run("object-add", backend, { signal });
  undo.defer(() => ignore(qmp.run("object-del", { id: backendId(id) })));
  const addr = addressAfter(devices);
  const place = addr === undefined ? {} : { addr };
  await qmp.run("device_add", { driver: "pc-dimm", id, memdev: backendId(id), ...place }, { signal });
  undo.move();
  return { id, pciPath: undefined };
}

/** Takes a device out and then its backend. The running guest must agree; a paused one cannot. */
export async function unplug({ qmp, slots }: HotplugContext, id: string, signal?: AbortSignal): Promise<void> {
  const driver = (await peripherals(qmp, signal)).get(id);
  if (driver === undefined) throw new HearthError("not-found", `remove device ${id}: there is none of that id`);
  if (driver.endsWith("-cpu")) await assertVcpuRemovable(qmp, id, signal);
  const limits = { signal, timeoutMs: UNPLUG_TIMEOUT_MS };
  using gone = qmp.awaitEvent("DEVICE_DELETED", ({ device }) => device === id, limits);
  using refused = qmp.awaitEvent("DEVICE_UNPLUG_GUEST_ERROR", ({ device }) => device === id, limits);
  await qmp.run("device_del", { id }, { signal });
  await Promise.race([
    gone.received,
    refused.received.then(() => {
      throw new HearthError("failed-precondition", `remove device ${id}: the guest does not let it go`);
    }),
  ]);
  slots.free(id);
  await removeBackend(qmp, id, driver, signal);
}

/** Not where vCPUs are emulated: QEMU 7.2 never tells that one is gone. */
async function assertVcpuRemovable(qmp: QmpClient, id: string, signal: AbortSignal | undefined): Promise<void> {
  const { enabled } = await qmp.run("query-kvm", {}, { signal });
  if (!enabled) throw new HearthError("unimplemented", `remove vCPU ${id}: not possible in an emulated VM`);
}

async function removeBackend(
  qmp: QmpClient,
  id: string,
  driver: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const backend = backendId(id);
  if (driver === "virtio-net-pci") await qmp.run("netdev_del", { id: backend }, { signal });
  else if (driver === "virtio-blk-pci") await qmp.run("blockdev-del", { "node-name": backend }, { signal });
  else if (driver === "vhost-user-fs-pci") await qmp.run("chardev-remove", { id: backend }, { signal });
  else if (driver === "pc-dimm") await qmp.run("object-del", { id: backend }, { signal });
}

/** Driver of each device that has an id. */
export async function peripherals(qmp: QmpClient, signal: AbortSignal | undefined): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const { name, type } of await qmp.run("qom-list", { path: PERIPHERALS }, { signal })) {
    const driver = /^child<(.+)>$/.exec(type)?.[1];
    if (driver !== undefined) found.set(name, driver);
  }
  return found;
}

/** Notes in the table who sits where, for a QEMU that was running before we came. */
export async function readSlots({ qmp, slots }: HotplugContext, signal?: AbortSignal): Promise<void> {
  for (const id of (await peripherals(qmp, signal)).keys()) {
    const bus = await busOf(qmp, id, signal);
    if (bus === undefined || slots.placeOf(id) !== undefined) continue;
    slots.hold(id, bus);
  }
}

/** The place of a PCI device; undefined for others. */
async function busOf(qmp: QmpClient, id: string, signal: AbortSignal | undefined): Promise<PciPlace | undefined> {
  const path = `${PERIPHERALS}/${id}`;
  const properties = await qmp.run("qom-list", { path }, { signal });
  const has = (name: string): boolean => properties.some((property) => property.name === name);
  if (!has("addr") || !has("parent_bus")) return undefined;
  const bus = await qmp.run("qom-get", { path, property: "parent_bus" }, { signal });
  const slot = await qmp.run("qom-get", { path, property: "addr" }, { signal });
  const name = typeof bus === "string" ? bus.slice(bus.lastIndexOf("/") + 1) : undefined;
  const number = slotOf(slot);
  return name === undefined || number === undefined ? undefined : { bus: name, slot: number };
}

/** QEMU gives an address as "02.0", slot and function. */
function slotOf(addr: unknown): number | undefined {
  if (typeof addr === "number") return addr >> 3;
  const match = typeof addr === "string" ? /^([0-9a-f]+)(?:\.[0-7])?$/i.exec(addr) : null;
  return match === null ? undefined : Number.parseInt(match[1] ?? "", 16);
}

export interface VmSize {
  readonly vcpus: number;
  readonly memoryMib: number;
}

export async function querySize(qmp: QmpClient, signal?: AbortSignal): Promise<VmSize> {
  const [cpus, { "base-memory": base }, devices] = await Promise.all([
    qmp.run("query-hotpluggable-cpus", {}, { signal }),
    qmp.run("query-memory-size-summary", {}, { signal }),
    qmp.run("query-memory-devices", {}, { signal }),
  ]);
  // The summary's own sum of what was plugged has the root image in it, which is a memory device and no memory.
  const modules = devices.filter(({ type }) => type === "dimm");
  const plugged = modules.reduce((sum, { data }) => sum + data.size, 0);
  return {
    vcpus: cpus.filter((slot) => slot["qom-path"] !== undefined).length,
    memoryMib: Math.round((base + plugged) / MIB),
  };
}

function isBlockDevice(path: string): boolean {
  try {
    return statSync(path).isBlockDevice();
  } catch (thrown) {
    throw toHearthError(thrown, `use disk ${path}`);
  }
}

async function ignore(step: Promise<unknown>): Promise<void> {
  await step.catch(() => undefined);
}
