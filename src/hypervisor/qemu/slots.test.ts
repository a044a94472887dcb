import { describe, expect, test } from "bun:test";
import { bootPlace, hotplugPlaces, pciPathOf, ROOT_PORTS, rootPorts, SlotTable } from "./slots.ts";

describe("places", () => {
  test("q35 has a root port each, pc its one bus", () => {
    expect(hotplugPlaces("q35")).toHaveLength(ROOT_PORTS);
    expect(hotplugPlaces("q35")[0]).toEqual({ bus: "port0", slot: 0 });
    expect(hotplugPlaces("pc")[0]).toEqual({ bus: "pci.0", slot: 16 });
    expect(rootPorts("pc")).toEqual([]);
  });

  test.each(["q35", "pc"] as const)("%s: boot places and hot-plug places are apart", (machine) => {
    const taken = new Set(
      machine === "q35" ? rootPorts(machine).map(({ slot }) => slot) : hotplugPlaces(machine).map(({ slot }) => slot),
    );
    for (let index = 0; index < 14; index++) expect(taken.has(bootPlace(machine, index).slot)).toBe(false);
    expect(() => bootPlace(machine, 14)).toThrow("only 14 at boot");
  });

  test("paths are as the guest's sysfs walks them", () => {
    expect(pciPathOf("q35", { bus: "port0", slot: 0 })).toBe("10/00");
    expect(pciPathOf("q35", { bus: "pcie.0", slot: 2 })).toBe("02");
    expect(pciPathOf("pc", { bus: "pci.0", slot: 0x1e })).toBe("1e");
  });
});

describe("SlotTable", () => {
  test("gives each place once, and again when it was freed", () => {
    const table = new SlotTable("q35");
    const ids = Array.from({ length: ROOT_PORTS }, (_, index) => `d${index}`);
    const places = ids.map((id) => table.take(id).bus);
    expect(new Set(places).size).toBe(ROOT_PORTS);
    expect(table.freeCount).toBe(0);
    expect(() => table.take("one more")).toThrow("slots are taken");
    table.free("d3");
    table.free("d3");
    expect(table.take("again")).toEqual({ bus: "port3", slot: 0 });
  });

  test("an id is used once", () => {
    const table = new SlotTable("pc");
    table.take("a");
    expect(() => table.take("a")).toThrow("there is one of that id");
    expect(table.placeOf("a")).toEqual({ bus: "pci.0", slot: 16 });
  });

  test("a device outside of the hot-plug places takes none of them", () => {
    const table = new SlotTable("q35");
    table.hold("serial", { bus: "pcie.0", slot: 2 });
    expect(table.freeCount).toBe(ROOT_PORTS);
    for (let index = 0; index < ROOT_PORTS; index++) table.take(`d${index}`);
  });
});
