/** PCI slots of the machine: what is fixed at boot, and which are free for hot-plug. */
import { HearthError } from "../../errors.ts";
import type { PciPlace } from "./device.ts";

/**
 * q35 takes hot-plugged devices only behind root ports, one each; pc takes them on its one bus. Eight ports cost 0.1 s
 * of an emulated boot and are enough for the shared directory, four NICs and three disks.
 */
export const ROOT_PORTS = 8;
/** First slot of the root bus for root ports (q35) or for hot-plugged devices (pc); those below are for boot devices. */
const FIRST_HOTPLUG_SLOT = 0x10;
const FIRST_BOOT_SLOT = 0x02;
/** Slot 31 of q35 and slot 1 of pc hold the south bridge. */
const LAST_SLOT = 0x1e;

export type MachineType = "q35" | "pc";

export function rootBus(machine: MachineType): string {
  return machine === "q35" ? "pcie.0" : "pci.0";
}

export interface RootPort {
  readonly id: string;
  readonly slot: number;
  readonly chassis: number;
}

export function rootPorts(machine: MachineType): readonly RootPort[] {
  if (machine === "pc") return [];
  return Array.from({ length: ROOT_PORTS }, (_, index) => ({
    id: `port${index}`,
    slot: FIRST_HOTPLUG_SLOT + index,
    chassis: index + 1,
  }));
}

/** Every place a device can be plugged into later, in the order of their use. */
export function hotplugPlaces(machine: MachineType): readonly PciPlace[] {
  if (machine === "q35") return rootPorts(machine).map(({ id }) => ({ bus: id, slot: 0 }));
  const places: PciPlace[] = [];
  for (let slot = FIRST_HOTPLUG_SLOT; slot <= LAST_SLOT; slot++) places.push({ bus: "pci.0", slot });
  return places;
}

/** Place of the device with this index among those present at boot. */
export function bootPlace(machine: MachineType, index: number): PciPlace {
  const slot = FIRST_BOOT_SLOT + index;
  if (slot >= FIRST_HOTPLUG_SLOT) {
    throw new HearthError(
      "resource-exhausted",
      `place device ${index}: only ${FIRST_HOTPLUG_SLOT - FIRST_BOOT_SLOT} at boot`,
    );
  }
  return { bus: rootBus(machine), slot };
}

/** The path as the agent reads it: two hexadecimal digits a bridge or device, "10/00" behind root port 0x10, "02" on the root bus. */
export function pciPathOf(machine: MachineType, place: PciPlace): string {
  const port = rootPorts(machine).find(({ id }) => id === place.bus);
  const slots = port === undefined ? [place.slot] : [port.slot, place.slot];
  return slots.map((slot) => slot.toString(16).padStart(2, "0")).join("/");
}

/** Who holds which place. Taking one that is not given back on failure would lose it for the VM's life. */
export class SlotTable {
  readonly #places: readonly PciPlace[];
  readonly #holders = new Map<string, PciPlace>();

  constructor(machine: MachineType) {
    this.#places = hotplugPlaces(machine);
  }

  /** The first free place, now held by the device. "resource-exhausted" when there is none. */
  take(deviceId: string): PciPlace {
    this.#assertNew(deviceId);
    const free = this.#places.find((place) => !this.#isHeld(place));
    if (free === undefined) {
      throw new HearthError(
        "resource-exhausted",
        `plug device ${deviceId}: all ${this.#places.length} slots are taken`,
      );
    }
    this.hold(deviceId, free);
    return free;
  }

  /** Notes a device that is there already. */
  hold(deviceId: string, place: PciPlace): void {
    this.#assertNew(deviceId);
    this.#holders.set(deviceId, place);
  }

  /** Idempotent. */
  free(deviceId: string): void {
    this.#holders.delete(deviceId);
  }

  placeOf(deviceId: string): PciPlace | undefined {
    return this.#holders.get(deviceId);
  }

  get freeCount(): number {
    return this.#places.filter((place) => !this.#isHeld(place)).length;
  }

  #assertNew(deviceId: string): void {
    if (!this.#holders.has(deviceId)) return;
    throw new HearthError("already-exists", `plug device ${deviceId}: there is one of that id`);
  }

  #isHeld(place: PciPlace): boolean {
    return [...this.#holders.values()].some((held) => held.bus === place.bus && held.slot === place.slot);
  }
}
