/** QEMU's command line for a VM. Pure: the same options give the same arguments. */
import { HearthError } from "../../errors.ts";
import type { BootOptions, Device } from "../interface.ts";
import {
  type BlockBackend,
  backendId,
  blockBackend,
  deviceOption,
  escapeValue,
  MODERN,
  optionString,
  placeProperties,
  vhostVsock,
  virtio9p,
  virtioBlk,
  virtioFs,
} from "./device.ts";
import { kernelCommandLine } from "./kernel-command-line.ts";
import { kernelParams, type RootDevice } from "./kernel-params.ts";
import { bootPlace, rootBus, rootPorts } from "./slots.ts";

/** Name of the agent's port as the guest sees it. */
export const AGENT_PORT_NAME = "org.hearth.agent.0";
/** Without an id QEMU does not tell when the port is opened. */
export const AGENT_PORT_ID = "agent-port";
export const AGENT_CHARDEV_ID = "agent";
export const SHARED_DIRECTORY_ID = "shared";
/** Times memory can be added; each slot costs QEMU and the guest's ACPI tables a little. */
export const MEMORY_SLOTS = 16;

/**
 * MiB of translated code. Smaller, and it is thrown away between boot and first container (64: a warm start takes twice
 * as long); larger, and an idle VM holds what only its boot needed (128: 29 MiB more).
 */
const TCG_TRANSLATION_BUFFER_MIB = 96;

/**
 * Of a guest that can have one vCPU only, QEMU before 8.1 translates no memory barrier, though its devices run beside the
 * vCPU in other threads. Driver and device may then miss that the other wants to be told of something, and a virtqueue
 * stands still for good: very likely what a NIC did once. So there is always room for two vCPUs, each with a thread of its own.
 * Source: QEMU 7.2 tcg/tcg-op.c, tcg_gen_mb; accel/tcg/tcg-accel-ops-mttcg.c, mttcg_start_vcpu_thread.
 */
const TCG_MAX_VCPUS_MIN = 2;

/**
 * Ports of the serial device: the first is kept for a console, the other is the agent's. Each has two queues, which guest and
 * QEMU set up whether they are used or not; by default there are 31.
 */
const SERIAL_PORTS = 2;

/** Place of the root image among the devices present at boot, after the serial device and the random source. */
const IMAGE_INDEX = 2;

/** Numbers of the descriptors that QEMU finds open: listening sockets, so that clients need not wait for it. */
export const QMP_LISTEN_FD = 3;
export const AGENT_LISTEN_FD = 4;
/** In the place of the agent's socket: the vhost device that has the VM's CID. */
export const VSOCK_FD = AGENT_LISTEN_FD;
/** Where it finds the file with the guest's memory, when it was given one. */
export const MEMORY_FD = 5;

/** Bytes. A memory device's size is a multiple of this; our guest build pads the image to it. */
const PMEM_ALIGNMENT_BYTES = 2 * 1024 * 1024;
/** MiB. Addresses given to memory devices are multiples of it. Source: hot-plugged memory comes in blocks of 128 MiB. */
const MEMORY_DEVICE_ALIGNMENT_MIB = 128;

/** The same options give the same arguments. `imageBytes` is the size of the root image's file, 0 without one. */
export function qemuArguments(options: BootOptions, imageBytes: number): [string, ...string[]] {
  const root = rootDevice(options, imageBytes);
  return [
    options.qemuPath,
    ...["-name", `hearth-${escapeValue(options.vmId)},debug-threads=on`],
    ...["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"],
    ...machineArguments(options),
    ...memoryArguments(options, root === "pmem" ? imageBytes : 0),
    ...kernelArguments(options, root),
    ...["-rtc", "base=utc"],
    ...["-chardev", `socket,id=qmp,fd=${QMP_LISTEN_FD},server=on,wait=off`, "-mon", "chardev=qmp,mode=control"],
    // Standard output is the guest's console.
    ...["-chardev", "stdio,id=console,signal=off", "-device", "isa-serial,chardev=console"],
    ...["-chardev", agentBackend(options)],
    ...bootDevices(options, root, imageBytes),
    ...hotplugPorts(options),
    ...(options.seccomp ? ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"] : []),
    ...(options.restore === undefined ? [] : ["-S", "-incoming", "defer"]),
  ];
}

/** Over vsock nothing goes through the agent's port. */
function agentBackend({ vsock }: BootOptions): string {
  if (vsock !== undefined) return optionString("null", { id: AGENT_CHARDEV_ID });
  return optionString("socket", { id: AGENT_CHARDEV_ID, fd: AGENT_LISTEN_FD, server: true, wait: false });
}

/**
 * An image of ours can be mapped; another that cannot is read as a disk. The mapping is read-only, so a saved state that
 * contains all memory cannot be loaded over it.
 */
function rootDevice(options: BootOptions, imageBytes: number): RootDevice {
  if (options.imageDevice !== undefined) return options.imageDevice === "virtio-pmem" ? "pmem" : "block";
  return options.image !== "" && imageBytes > 0 && imageBytes % PMEM_ALIGNMENT_BYTES === 0 ? "pmem" : "block";
}

function machineArguments(options: BootOptions): string[] {
  // What a guest without a BIOS-era device does not have it does not probe.
  const lean =
    options.machine === "q35" ? "smbus=off,sata=off,vmport=off,usb=off,hpet=off" : "vmport=off,usb=off,hpet=off";
  const tcg = options.accel === "tcg";
  const maxVcpus = tcg ? Math.max(options.maxVcpus, TCG_MAX_VCPUS_MIN) : options.maxVcpus;
  return [
    ...["-machine", `${options.machine},${lean},memory-backend=ram`],
    ...["-accel", tcg ? `tcg,thread=multi,tb-size=${TCG_TRANSLATION_BUFFER_MIB}` : "kvm"],
    // Five-level page tables cost the emulation a level in each walk. With fast strings (erms, fsrm) the guest clears and
    // copies pages byte by byte, each of them emulated by itself: 0.3 s of a boot.
    ...["-cpu", tcg ? "max,la57=off,erms=off,fsrm=off" : "host"],
    ...["-smp", maxVcpus > options.vcpus ? `${options.vcpus},maxcpus=${maxVcpus}` : `${options.vcpus}`],
    // A clone must know that it is one: the guest kernel reseeds its random pool when the id changes.
    ...["-device", "vmgenid,id=generation,guid=auto"],
  ];
}

/** `mappedBytes` of address space are for the root image, beside the memory that may be added. */
function memoryArguments(options: BootOptions, mappedBytes: number): string[] {
  const size = `${options.memoryMib}M`;
  const grows = options.maxMemoryMib > options.memoryMib;
  const blocks = Math.ceil(mappedBytes / (MEMORY_DEVICE_ALIGNMENT_MIB * 1024 * 1024));
  const maxMib = options.maxMemoryMib + blocks * MEMORY_DEVICE_ALIGNMENT_MIB;
  const file = memoryFile(options);
  const backend =
    file === undefined
      ? memoryBackend("ram", options.sharedMemory, size)
      : optionString("memory-backend-file", {
          id: "ram",
          size,
          "mem-path": file.path,
          share: file.access === "shared",
        });
  return [
    ...[
      "-m",
      `size=${size}${grows ? `,slots=${MEMORY_SLOTS}` : ""}${maxMib > options.memoryMib ? `,maxmem=${maxMib}M` : ""}`,
    ],
    ...["-object", backend],
  ];
}

function memoryFile({ memoryFd, memoryFile: file, sharedMemory }: BootOptions): BootOptions["memoryFile"] {
  if (memoryFd !== undefined) return { path: `/proc/self/fd/${MEMORY_FD}`, access: "shared" };
  if (file?.access === "copy-on-write" && sharedMemory) {
    throw new HearthError("invalid-argument", "map guest memory copy-on-write: it must be shared with virtiofsd");
  }
  return file;
}

/** Anonymous memory; that of another process that maps it too (virtiofsd) must be a memfd. */
function memoryBackend(id: string, shared: boolean, size: string): string {
  return shared
    ? optionString("memory-backend-memfd", { id, size, share: true })
    : optionString("memory-backend-ram", { id, size, share: false });
}

/** A restored guest has its kernel in memory, and cannot be reset (-no-reboot). */
function kernelArguments(options: BootOptions, root: RootDevice): string[] {
  if (options.restore !== undefined) return [];
  const initrd = options.initrd === "" ? [] : ["-initrd", options.initrd];
  const { accel, vsock, tscKhz } = options;
  const own = kernelParams({ accel, root, devices: deviceKinds(options), vsock: vsock !== undefined, tscKhz });
  return ["-kernel", options.kernel, ...initrd, "-append", kernelCommandLine(own, options.kernelParams)];
}

function deviceKinds({ devices, laterDevices = [] }: BootOptions): Device["kind"][] {
  return [...devices.map(({ kind }) => kind), ...laterDevices];
}

function bootDevices(options: BootOptions, root: RootDevice, imageBytes: number): string[] {
  const { machine } = options;
  const serial = {
    driver: "virtio-serial-pci",
    id: "serial",
    properties: { max_ports: SERIAL_PORTS, ...MODERN, ...placeProperties(bootPlace(machine, 0)) },
  };
  const rng = {
    driver: "virtio-rng-pci",
    id: "rng",
    properties: { rng: backendId("rng"), ...MODERN, ...placeProperties(bootPlace(machine, 1)) },
  };
  const port = optionString("virtserialport", { id: AGENT_PORT_ID, chardev: AGENT_CHARDEV_ID, name: AGENT_PORT_NAME });
  const disk: Device = { kind: "block", id: "image", path: options.image, readOnly: true, format: "raw" };
  const image = root === "pmem" ? mappedImage(options, imageBytes) : bootDevice(disk, options, IMAGE_INDEX);
  return [
    ...["-device", deviceOption(serial), "-device", port],
    ...["-object", `rng-builtin,id=${backendId("rng")}`, "-device", deviceOption(rng)],
    ...(options.image === "" ? [] : image),
    ...options.devices.flatMap((device, index) => bootDevice(device, options, IMAGE_INDEX + 1 + index)),
    ...vsockDevice(options),
  ];
}

/** At the last place of a boot, so that the others have theirs whatever the transport. */
function vsockDevice({ vsock, machine, devices }: BootOptions): string[] {
  if (vsock === undefined) return [];
  const place = bootPlace(machine, IMAGE_INDEX + 1 + devices.length);
  return ["-device", deviceOption(vhostVsock("vsock", { cid: vsock.cid, fd: VSOCK_FD }, place))];
}

/** All VMs of a host share the image's pages, and the guest keeps no second copy of them. */
function mappedImage(options: BootOptions, imageBytes: number): string[] {
  const place = placeProperties(bootPlace(options.machine, IMAGE_INDEX));
  const backend = { id: backendId("image"), "mem-path": options.image, size: imageBytes, share: true, readonly: true };
  const device = { driver: "virtio-pmem-pci", id: "image", properties: { memdev: backend.id, ...place } };
  return ["-object", optionString("memory-backend-file", backend), "-device", deviceOption(device)];
}

function bootDevice(device: Device, options: BootOptions, index: number): string[] {
  const place = bootPlace(options.machine, index);
  switch (device.kind) {
    case "shared-directory-virtio-fs": {
      const id = SHARED_DIRECTORY_ID;
      if (!options.sharedMemory) {
        throw new HearthError("invalid-argument", "add virtio-fs device: guest memory is not shared");
      }
      const chardev = optionString("socket", { id: backendId(id), path: device.socketPath });
      return ["-chardev", chardev, "-device", deviceOption(virtioFs(id, device.tag, place))];
    }
    case "shared-directory-9p": {
      const id = SHARED_DIRECTORY_ID;
      // Ownership and special files as they are on the host; inode numbers of several file systems kept apart.
      const fsdev = optionString("local", {
        id: backendId(id),
        path: device.path,
        security_model: "passthrough",
        multidevs: "remap",
        ...(device.readOnly ? { readonly: true } : {}),
      });
      return ["-fsdev", fsdev, "-device", deviceOption(virtio9p(id, device.tag, place))];
    }
    case "block": {
      const backend = blockBackend(device.id, { ...device, isDevice: device.path.startsWith("/dev/") });
      return ["-blockdev", blockdevOption(backend), "-device", deviceOption(virtioBlk(device.id, place))];
    }
    case "nic":
      throw new HearthError("unimplemented", `add NIC ${device.id}: NICs are added to the running VM`);
  }
}

/** `-blockdev` in its dotted form. Source: qemu(1). */
function blockdevOption({ driver, file, ...rest }: BlockBackend): string {
  const dotted = Object.fromEntries(Object.entries(file).map(([key, value]) => [`file.${key}`, value]));
  return optionString(driver, { ...rest, ...dotted });
}

function hotplugPorts(options: BootOptions): string[] {
  return rootPorts(options.machine).flatMap(({ id, slot, chassis }) => {
    const properties = { chassis, slot: chassis, ...placeProperties({ bus: rootBus(options.machine), slot }) };
    return ["-device", deviceOption({ driver: "pcie-root-port", id, properties })];
  });
}
