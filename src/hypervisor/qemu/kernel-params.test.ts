import { describe, expect, test } from "bun:test";
import type { Device } from "../interface.ts";
import { kernelParams } from "./kernel-params.ts";

const VIRTIO_FS: Device["kind"] = "shared-directory-virtio-fs";
const VIRTIO_9P: Device["kind"] = "shared-directory-9p";

describe("kernelParams", () => {
  test.each([
    ["pmem", ["root=/dev/pmem0", "rootflags=dax=always"]],
    ["block", ["root=/dev/vda"]],
  ] as const)("root on %s", (root, expected) => {
    const params = kernelParams({ accel: "kvm", root, devices: [] });
    expect(params.filter((param) => param.startsWith("root"))).toEqual([...expected]);
  });

  test.each([
    ["nothing", [], "virtio_rng,virtio_net,virtio_blk"],
    ["virtio-fs", [VIRTIO_FS], "virtio_rng,virtio_net,virtio_blk,virtiofs"],
    ["9p", [VIRTIO_9P, VIRTIO_9P], "virtio_rng,virtio_net,virtio_blk,9p,9pnet_virtio"],
  ])("modules for %s, each once", (_, devices, expected) => {
    expect(kernelParams({ accel: "kvm", root: "pmem", devices })).toContain(`hearth.modules=${expected}`);
  });

  test("the agent is told to serve vsock, and the driver is loaded, where that is the transport", () => {
    const params = (vsock: boolean) => kernelParams({ accel: "kvm", root: "pmem", devices: [], vsock }).join(" ");
    expect(params(true)).toContain(" hearth.vsock ");
    expect(params(true)).toContain("vmw_vsock_virtio_transport");
    expect(params(false)).not.toContain("vsock");
  });

  test("only an emulated guest is told that it is one", () => {
    const has = (accel: "kvm" | "tcg") =>
      kernelParams({ accel, root: "pmem", devices: [] }).includes("hearth.emulated");
    expect([has("tcg"), has("kvm")]).toEqual([true, false]);
  });

  test("address randomisation stays on for whatever the guest runs", () => {
    for (const accel of ["kvm", "tcg"] as const) {
      const params = kernelParams({ accel, root: "pmem", devices: [] });
      expect(params.filter((param) => /^(norandmaps|mitigations=|rodata=|init_on_alloc=|nokaslr)/.test(param))).toEqual(
        [],
      );
    }
  });
});
