import { describe, expect, test } from "bun:test";
import { podRole, wantedSize } from "./pod.ts";

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
});
