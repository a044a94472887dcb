import { describe, expect, test } from "bun:test";
import { DEFAULT_CONFIG } from "../config/defaults.ts";
import { type Log, silentLog } from "../log.ts";
import { hasCpuExtensions } from "./host.ts";
import { checkHost, type HostFacts, toVmConfig } from "./resolve-config.ts";

const host: HostFacts = {
  kvm: { usable: true },
  vsock: { usable: false, reason: "/dev/vhost-vsock cannot be opened: ENOENT" },
  cpus: 4,
  memoryMib: 8_100,
  virtiofsd: "/usr/libexec/virtiofsd",
  isExecutable: () => true,
  stampOf: (path) => `stamp of ${path}`,
};
const guest = { kernel: "/k", initrd: "/i", image: "/m", digest: "d" };
type Hypervisor = (typeof DEFAULT_CONFIG)["hypervisor"];
const configured = (hypervisor: Partial<Hypervisor>): typeof DEFAULT_CONFIG => ({
  ...DEFAULT_CONFIG,
  hypervisor: { ...DEFAULT_CONFIG.hypervisor, ...hypervisor },
});

describe("the VM that a configuration means", () => {
  test("by default", () => {
    expect(toVmConfig(DEFAULT_CONFIG, guest, host, silentLog)).toMatchObject({
      qemuPath: "/usr/bin/qemu-system-x86_64",
      accel: "kvm",
      guestDigest: "d",
      kernelParams: [],
      vcpus: 1,
      maxVcpus: 4,
      memoryMib: 1024,
      maxMemoryMib: 8064,
      sharedFs: "virtio-fs",
      virtiofsdPath: "/usr/libexec/virtiofsd",
      transport: "virtio-serial",
    });
  });

  test("bounds are never below what it starts with", () => {
    const config = configured({ default_vcpus: 8, default_memory: 9000 });
    expect(toVmConfig(config, guest, host, silentLog)).toMatchObject({ maxVcpus: 8, maxMemoryMib: 9000 });
  });

  test("vsock is the transport where the host has it, unless another is chosen", () => {
    const withVsock: HostFacts = { ...host, vsock: { usable: true } };
    const transportOn = (facts: HostFacts, transport: Hypervisor["transport"]) =>
      toVmConfig(configured({ transport }), guest, facts, silentLog).transport;
    expect(transportOn(withVsock, "auto")).toBe("vsock");
    expect(transportOn(withVsock, "vsock")).toBe("vsock");
    expect(transportOn(withVsock, "virtio-serial")).toBe("virtio-serial");
    expect(transportOn(host, "auto")).toBe("virtio-serial");
  });

  test("vsock that is insisted on and not there is refused, not replaced", () => {
    expect(() => checkHost(configured({ transport: "vsock" }), host)).toThrow(
      "use transport vsock: /dev/vhost-vsock cannot be opened: ENOENT",
    );
    expect(() => checkHost(configured({ transport: "vsock" }), { ...host, vsock: { usable: true } })).not.toThrow();
    expect(() => checkHost(configured({ transport: "auto" }), host)).not.toThrow();
  });

  test("parameters are words; 9p needs no virtiofsd", () => {
    const config = configured({ kernel_params: " a=1  b\n", shared_fs: "virtio-9p", virtio_fs_daemon: "/v" });
    expect(toVmConfig(config, guest, host, silentLog)).toMatchObject({ kernelParams: ["a=1", "b"], virtiofsdPath: "" });
  });

  test("without KVM it is emulated, and warned of unless that was chosen", () => {
    const warnings: string[] = [];
    const log: Log = { ...silentLog, warn: (event) => warnings.push(event) };
    const without: HostFacts = { ...host, kvm: { usable: false, reason: "no" } };
    expect(toVmConfig(configured({ accel: "tcg" }), guest, without, log).accel).toBe("tcg");
    expect(warnings).toEqual([]);
    expect(toVmConfig(DEFAULT_CONFIG, guest, without, log).accel).toBe("tcg");
    expect(warnings).toHaveLength(1);
    expect(() => checkHost(configured({ accel: "kvm" }), without)).toThrow("use KVM: no");
  });

  test("programs that are missing are named", () => {
    expect(() => checkHost(DEFAULT_CONFIG, host)).not.toThrow();
    const nothing: HostFacts = { ...host, isExecutable: (path) => !path.includes("qemu") };
    expect(() => checkHost(DEFAULT_CONFIG, nothing)).toThrow("find QEMU /usr/bin/qemu-system-x86_64");
    const noDaemon: HostFacts = { ...host, virtiofsd: undefined };
    expect(() => checkHost(DEFAULT_CONFIG, noDaemon)).toThrow("find virtiofsd: no such program");
    expect(() => checkHost(configured({ shared_fs: "virtio-9p" }), noDaemon)).not.toThrow();
  });

  test.each([
    ["processor : 0\nflags\t\t: fpu vme svm sse\n", true],
    ["flags : fpu vmx", true],
    ["flags : fpu vme\nmodel name : vmx lookalike\n", false],
    ["", false],
  ])("CPU extensions in %j: %p", (cpuinfo, expected) => {
    expect(hasCpuExtensions(cpuinfo)).toBe(expected);
  });
});
