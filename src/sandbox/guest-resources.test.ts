import { expect, test } from "bun:test";
import { guestResources } from "./guest-resources.ts";

const single = { kind: "single" } as const;
const member = { kind: "member", sandboxId: "pod" } as const;

test("what names devices and CPUs of the host stays on the host; the rest goes on, unknown members too", () => {
  const resources = {
    cpu: { shares: 512, cpus: "0-1", mems: "0" },
    blockIO: { weight: 100, throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 1 }] },
    pids: { limit: 10 },
    future: 1,
  };
  const warnings: string[] = [];
  expect(guestResources(resources, single, warnings)).toEqual({ cpu: { shares: 512 }, pids: { limit: 10 }, future: 1 });
  expect(warnings).toEqual([]);
});

test("a limit of no processes is one of one", () => {
  expect(guestResources({ pids: { limit: 0 } }, single, [])).toEqual({ pids: { limit: 1 } });
  expect(guestResources({ pids: {} }, single, [])).toEqual({ pids: {} });
});

test("CPU burst goes on under the name of its file", () => {
  const resources = { cpu: { quota: 5, burst: 7 }, unified: { "memory.high": "1" } };
  expect(guestResources(resources, single, [])).toEqual({
    cpu: { quota: 5 },
    unified: { "memory.high": "1", "cpu.max.burst": "7" },
  });
  expect(guestResources({ cpu: { burst: 0 } }, single, [])).toEqual({ cpu: {}, unified: { "cpu.max.burst": "0" } });
});

test("a member of a pod has no VM of its own to limit", () => {
  const warnings: string[] = [];
  guestResources({ cpu: { cpus: "0", mems: "0" }, blockIO: { weight: 5 } }, member, warnings);
  expect(warnings).toEqual([
    expect.stringContaining("blockIO.weight"),
    expect.stringContaining("cpu.cpus 0"),
    expect.stringContaining("cpu.mems 0"),
  ]);
  const blockIO = { throttleWriteBpsDevice: [{ major: 8, minor: 0, rate: 1 }] };
  expect(() => guestResources({ blockIO }, member, [])).toThrow("linux.resources.blockIO.throttleWriteBpsDevice");
});

test.each([
  ["linux.resources.network", { network: { classID: 1 } }],
  ["linux.resources.rdma", { rdma: { mlx: { hcaHandles: 1 } } }],
  ["linux.resources.cpu.realtimeRuntime", { cpu: { realtimeRuntime: 1 } }],
])("%s is refused", (property, resources) => {
  expect(() => guestResources(resources, single, [])).toThrow(property);
});

test("limits of kernel memory, which docker's updates name as 0 and crun would refuse", () => {
  const warnings: string[] = [];
  expect(guestResources({ memory: { limit: 5, kernel: 0, kernelTCP: 0 } }, single, warnings)).toEqual({
    memory: { limit: 5 },
  });
  expect(warnings).toEqual([]);
  expect(guestResources({ memory: { kernel: 7 } }, single, warnings)).toEqual({ memory: {} });
  expect(warnings).toEqual([expect.stringContaining("linux.resources.memory.kernel")]);
});
