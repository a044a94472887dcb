/** Devices of the guest by the names that the host has for them, waiting for those that are being plugged. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { DeadlineError, HearthError, isNotFound, toHearthError } from "../../errors.ts";
import type { Device } from "../../gen/agent_pb.ts";
import { DEVICE_APPEARS_TIMEOUT_MS } from "../../limits.ts";
import { splitDeviceNumber } from "../../sys/device-number.ts";
import { runProcess } from "../../sys/run-process.ts";
import type { DeviceNumbers } from "./oci-view.ts";
import { uevents } from "./uevents.ts";

/** By the names of Kata's drivers. */
export const DEVICE_DRIVERS = ["blk"] as const;

/** The kernel's numbers of the devices that a container gets. */
export async function deviceNumbers(devices: readonly Device[], signal: AbortSignal): Promise<DeviceNumbers[]> {
  const numbers: DeviceNumbers[] = [];
  for (const device of devices) {
    if (!DEVICE_DRIVERS.some((name) => name === device.type)) {
      throw new HearthError("unimplemented", `use device ${device.containerPath}: no driver "${device.type}"`);
    }
    const node = await blockDevice(device.vmPath === "" ? device.id : device.vmPath, signal);
    numbers.push({ containerPath: device.containerPath, type: "b", ...numbersOf(node) });
  }
  return numbers;
}

function numbersOf(node: string): { readonly major: number; readonly minor: number } {
  try {
    return splitDeviceNumber(statSync(node).rdev);
  } catch (thrown) {
    throw toHearthError(thrown, `inspect device ${node}`);
  }
}

/**
 * Node of a block device, waiting for it to appear. `name` is a path below /dev, the PCI path that the host gave when
 * it plugged it ("02/03": slots from bus to bus), or the serial number of a virtio disk ("serial:ID").
 */
export async function blockDevice(name: string, signal: AbortSignal): Promise<string> {
  const find = blockDeviceFinder(name);
  return await waitForDevice(`block device ${name}`, find, signal);
}

function blockDeviceFinder(name: string): () => string | undefined {
  if (name.startsWith("/dev/") && !name.includes("/../")) return () => (exists(name) ? name : undefined);
  if (name.startsWith("serial:")) return () => diskBySerial(name.slice("serial:".length));
  if (/^[0-9a-f]{2}(?:\/[0-9a-f]{2})*$/i.test(name)) return () => diskByPciPath(name.toLowerCase().split("/"));
  throw new HearthError(
    "invalid-argument",
    `find block device "${name}": neither a path in /dev, a PCI path nor a serial`,
  );
}

/**
 * Runs `find` now and after every device event until it finds something. There is no udev in the guest: drivers of
 * virtio devices that have none are loaded here.
 */
export async function waitForDevice<T>(
  what: string,
  find: () => T | undefined | Promise<T | undefined>,
  signal: AbortSignal,
): Promise<T> {
  const found = await find();
  if (found !== undefined) return found;
  const deadline = AbortSignal.timeout(DEVICE_APPEARS_TIMEOUT_MS);
  const either = AbortSignal.any([signal, deadline]);
  const tried = new Set<string>();
  using events = uevents();
  try {
    for (;;) {
      await loadMissingDrivers(tried, either);
      // It may have come between the first look and the subscription.
      const now = await find();
      if (now !== undefined) return now;
      await events.next(either);
    }
  } catch (thrown) {
    if (deadline.aborted && !signal.aborted) throw new DeadlineError(what, DEVICE_APPEARS_TIMEOUT_MS);
    throw thrown;
  }
}

const VIRTIO_DEVICES = "/sys/bus/virtio/devices";

/** `tried`: devices that need not be tried again. */
async function loadMissingDrivers(tried: Set<string>, signal: AbortSignal): Promise<void> {
  const aliases: string[] = [];
  for (const name of list(VIRTIO_DEVICES)) {
    const device = join(VIRTIO_DEVICES, name);
    const alias = exists(join(device, "driver")) || tried.has(name) ? undefined : readText(join(device, "modalias"));
    if (alias === undefined) continue;
    tried.add(name);
    aliases.push(alias.trim());
  }
  // What it cannot load shows in the device that does not come.
  if (aliases.length > 0) await runProcess(["modprobe", "-a", "-q", ...aliases], { signal });
}

function exists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

function diskBySerial(serial: string): string | undefined {
  for (const disk of list("/sys/block")) {
    if (readText(join("/sys/block", disk, "serial"))?.trim() === serial) return nodeOf(disk);
  }
  return undefined;
}

function diskByPciPath(slots: readonly string[]): string | undefined {
  const device = pciDevice(slots);
  if (device === undefined) return undefined;
  for (const virtio of list(device)) {
    if (!virtio.startsWith("virtio")) continue;
    const [disk] = list(join(device, virtio, "block"));
    if (disk !== undefined) return nodeOf(disk);
  }
  return undefined;
}

/** Directory in /sys of the device at the end of a path of slots, from the root bus over bridges. */
export function pciDevice(slots: readonly string[]): string | undefined {
  let at = "/sys/devices/pci0000:00";
  for (const slot of slots) {
    const child = list(at).find((name) => name.endsWith(`:${slot}.0`) && /^[0-9a-f]{4}:/.test(name));
    if (child === undefined) return undefined;
    at = join(at, child);
  }
  return at;
}

function nodeOf(disk: string): string | undefined {
  const node = join("/dev", basename(disk));
  return exists(node) ? node : undefined;
}

/** Names in a directory; none when it is not there. */
export function list(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch (thrown) {
    if (isNotFound(thrown)) return [];
    throw toHearthError(thrown, `list ${dir}`);
  }
}

/** Content of a file of /sys; undefined when it cannot be read, as it happens to devices that are going. */
export function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
