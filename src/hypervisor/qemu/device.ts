/** How each device is spelled to QEMU: objects with typed properties, on the command line or over QMP alike. */
import type { JsonObject, JsonValue } from "./qmp/message.ts";

/** Value of one option, `key=value,key=value`: booleans as on and off, commas in values doubled. Source: qemu(1), util/keyval.c. */
export function optionString(first: string, properties: JsonObject): string {
  const parts = [escapeValue(first)];
  for (const [key, value] of Object.entries(properties)) parts.push(`${key}=${optionValue(value)}`);
  return parts.join(",");
}

function optionValue(value: JsonValue): string {
  if (typeof value === "boolean") return value ? "on" : "off";
  if (typeof value === "string") return escapeValue(value);
  return String(value);
}

export function escapeValue(value: string): string {
  return value.replaceAll(",", ",,");
}

/** One `device_add`: driver, id, and its properties in order. */
export interface DeviceSpelling {
  readonly driver: string;
  readonly id: string;
  readonly properties: JsonObject;
}

/** `-device` value. */
export function deviceOption(device: DeviceSpelling): string {
  return optionString(device.driver, { id: device.id, ...device.properties });
}

/** Where a PCI device sits: bus id and slot number on it. */
export interface PciPlace {
  readonly bus: string;
  readonly slot: number;
}

export function placeProperties(place: PciPlace): JsonObject {
  return { bus: place.bus, addr: `0x${place.slot.toString(16)}` };
}

/** Ids that QEMU's parts of a device get, all derived from the device's own. */
export function backendId(deviceId: string): string {
  return `${deviceId}-backend`;
}

/** Modern virtio only: the legacy interface costs the guest a probe and an I/O window. */
export const MODERN = { "disable-legacy": "on" } as const;

export function virtioFs(id: string, tag: string, place: PciPlace): DeviceSpelling {
  const properties = { chardev: backendId(id), tag, "queue-size": VIRTIO_FS_QUEUE_LENGTH, ...placeProperties(place) };
  return { driver: "vhost-user-fs-pci", id, properties };
}
/** Requests in flight; QEMU's default is 128, Kata's and libvirt's examples use 1024. */
const VIRTIO_FS_QUEUE_LENGTH = 1024;

export function virtio9p(id: string, tag: string, place: PciPlace): DeviceSpelling {
  const properties = { fsdev: backendId(id), mount_tag: tag, ...MODERN, ...placeProperties(place) };
  return { driver: "virtio-9p-pci", id, properties };
}

export function virtioBlk(id: string, place: PciPlace): DeviceSpelling {
  const properties = { drive: backendId(id), serial: id.slice(0, BLK_SERIAL_LENGTH_MAX), ...MODERN };
  return { driver: "virtio-blk-pci", id, properties: { ...properties, ...placeProperties(place) } };
}
/** Characters. Source: VIRTIO_BLK_ID_BYTES, virtio specification 5.2. */
const BLK_SERIAL_LENGTH_MAX = 20;

/** `fd`: of /dev/vhost-vsock, opened by who starts QEMU; its CID is already set to the same. */
export function vhostVsock(
  id: string,
  { cid, fd }: { readonly cid: number; readonly fd: number },
  place: PciPlace,
): DeviceSpelling {
  const properties = { "guest-cid": cid, vhostfd: `${fd}`, ...MODERN, ...placeProperties(place) };
  return { driver: "vhost-vsock-pci", id, properties };
}

export interface NicProperties {
  readonly mac: string;
  readonly queues: number;
}

export function virtioNet(id: string, nic: NicProperties, place: PciPlace): DeviceSpelling {
  const queues = nic.queues > 1 ? { mq: true, vectors: 2 * nic.queues + 2 } : {};
  return {
    driver: "virtio-net-pci",
    id,
    // No boot from the network, so no option ROM, which would be memory and time.
    properties: {
      netdev: backendId(id),
      mac: nic.mac,
      romfile: "",
      ...queues,
      ...MODERN,
      ...placeProperties(place),
    },
  };
}

/** A disk's backend as `blockdev-add` takes it. */
export interface BlockBackend {
  readonly driver: "raw" | "qcow2";
  readonly "node-name": string;
  readonly "read-only": boolean;
  /** A block device and a file have different drivers. */
  readonly file: {
    readonly driver: "file" | "host_device";
    readonly filename: string;
    readonly "read-only": boolean;
  };
  readonly [option: string]: JsonValue;
}

export function blockBackend(
  id: string,
  file: {
    readonly path: string;
    readonly format: "raw" | "qcow2";
    readonly readOnly: boolean;
    readonly isDevice: boolean;
  },
): BlockBackend {
  return {
    driver: file.format,
    "node-name": backendId(id),
    "read-only": file.readOnly,
    file: { driver: file.isDevice ? "host_device" : "file", filename: file.path, "read-only": file.readOnly },
  };
}
