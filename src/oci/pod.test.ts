import { describe, expect, test } from "bun:test";
import { limitsOf, NO_LIMITS, podRole, sizeFor, vmRole, wantedSize } from "./pod.ts";

const MIB = 1024 * 1024;

describe("role in a pod", () => {
  test.each([
    [undefined, { kind: "single" }],
    [{}, { kind: "single" }],
    [{ "io.kubernetes.cri.container-type": "sandbox" }, { kind: "sandbox" }],
    [
      { "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "p" },
      { kind: "member", sandboxId: "p" },
    ],
    [
      { "io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "q" },
      { kind: "member", sandboxId: "q" },
    ],
  ] as const)("%j", (annotations, role) => {
    expect(podRole(annotations)).toEqual(role);
  });

  test("a member without a sandbox, and a type nobody knows", () => {
    expect(() => podRole({ "io.kubernetes.cri.container-type": "container" })).toThrow("cri.sandbox-id");
    expect(() => podRole({ "io.kubernetes.cri.container-type": "x" })).toThrow('unknown type "x"');
  });
});

describe("the VM of another container", () => {
  const neighbours = {
    containerOfPid: (pid: number) => (pid === 77 ? "first" : undefined),
    hasContainer: (id: string) => id === "first",
  };
  const network = (path: string, more: object = {}) =>
    vmRole({ linux: { namespaces: [{ type: "pid" }, { type: "network", path }] }, ...more }, neighbours);

  test("is joined by who has its network namespace", () => {
    expect(network("/proc/77/ns/net")).toEqual({ kind: "member", sandboxId: "first" });
    for (const path of ["/proc/78/ns/net", "/proc/77/ns/ipc", "/run/netns/77", ""]) {
      expect(network(path)).toEqual({ kind: "single" });
    }
    const namespaces = [{ type: "network" }, { type: "ipc", path: "/proc/77/ns/ipc" }];
    expect(vmRole({ linux: { namespaces } }, neighbours)).toEqual({ kind: "single" });
  });

  test("is its own in a pod of podman's that has no infra container, whose id stands in its place", () => {
    const member = (sandboxId: string) => ({
      annotations: { "io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": sandboxId },
    });
    expect(vmRole(member("the-pod"), neighbours)).toEqual({ kind: "single" });
    expect(vmRole(member("first"), neighbours)).toEqual({ kind: "member", sandboxId: "first" });
  });

  test("is never that of a pod's container, whose annotations say where it goes", () => {
    const annotations = { "io.kubernetes.cri.container-type": "sandbox" };
    expect(network("/proc/77/ns/net", { annotations })).toEqual({ kind: "sandbox" });
  });
});

describe("size of the VM", () => {
  test("nothing asked for", () => {
    expect(wantedSize({})).toEqual({ vcpus: 0, memoryMib: 0 });
    expect(wantedSize({ linux: { resources: { memory: { limit: -1 }, cpu: { quota: -1, period: 100000 } } } })).toEqual(
      {
        vcpus: 0,
        memoryMib: 0,
      },
    );
    // What engines write for "no limit".
    expect(wantedSize({ linux: { resources: { memory: { limit: 9223372036854771712n } } } }).memoryMib).toBe(0);
  });

  test("the container's limits, rounded up, with the guest's own memory", () => {
    const resources = { memory: { limit: 512 * MIB + 1 }, cpu: { quota: 150_000, period: 100_000 } };
    expect(wantedSize({ linux: { resources } })).toEqual({ vcpus: 2, memoryMib: 513 + 128 });
  });

  test("the pod's limits win", () => {
    const annotations = {
      "io.kubernetes.cri.sandbox-memory": String(2048 * MIB),
      "io.kubernetes.cri.sandbox-cpu-quota": "400000",
      "io.kubernetes.cri.sandbox-cpu-period": "100000",
    };
    const resources = { memory: { limit: 64 * MIB }, cpu: { quota: 1, period: 1 } };
    expect(wantedSize({ annotations, linux: { resources } })).toEqual({ vcpus: 4, memoryMib: 2048 + 128 });
    expect(
      wantedSize({ annotations: { "io.kubernetes.cri.sandbox-memory": "0" }, linux: { resources } }).memoryMib,
    ).toBe(192);
  });

  test("several containers together: fractions of CPUs are added up before they are rounded", () => {
    const tenth = { quota: 10_000n, period: 100_000n, memory: BigInt(100 * MIB), hugepages: 0n };
    expect(sizeFor([tenth, tenth, tenth])).toEqual({ vcpus: 1, memoryMib: 300 + 128 });
    expect(sizeFor(new Array(10).fill(tenth))).toEqual({ vcpus: 1, memoryMib: 1000 + 128 });
    expect(sizeFor(new Array(11).fill(tenth)).vcpus).toBe(2);
    expect(sizeFor([])).toEqual({ vcpus: 0, memoryMib: 0 });
  });

  test("huge pages come on top of what a limit of memory counts", () => {
    const hugepageLimits = [{ limit: 64 * MIB }, { limit: 0 }, { limit: 9_223_372_036_854_771_712n }];
    const resources = { memory: { limit: 100 * MIB }, hugepageLimits };
    expect(wantedSize({ linux: { resources } }).memoryMib).toBe(164 + 128);
    expect(sizeFor([limitsOf({ hugepageLimits })]).memoryMib).toBe(64 + 128);
  });

  test("an update leaves alone what it does not name", () => {
    const before = limitsOf({ cpu: { quota: 1, period: 2 }, memory: { limit: 3 } });
    expect(before).toEqual({ ...NO_LIMITS, quota: 1n, period: 2n, memory: 3n });
    expect(limitsOf({ cpu: { quota: 4 } }, before)).toEqual({ ...before, quota: 4n });
    expect(limitsOf(undefined)).toEqual(NO_LIMITS);
  });
});
