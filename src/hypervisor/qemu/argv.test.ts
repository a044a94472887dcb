/** The command line against golden files, one argument a line: any change of it shows in a diff. */
import { describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { asFd } from "../../sys/fd.ts";
import type { BootOptions } from "../interface.ts";
import { qemuArguments } from "./argv.ts";

const MIB = 1024 * 1024;
const IMAGE_BYTES = 150 * MIB;

const BASE: BootOptions = {
  vmId: "vm1",
  qemuPath: "/usr/bin/qemu-system-x86_64",
  accel: "tcg",
  machine: "q35",
  kernel: "/guest/vmlinux",
  initrd: "/guest/initrd.cpio",
  image: "/guest/rootfs.erofs",
  kernelParams: [],
  vcpus: 1,
  maxVcpus: 4,
  memoryMib: 512,
  maxMemoryMib: 4096,
  sharedMemory: true,
  qmpSocket: "/run/hearth/vm/vm1/qmp.sock",
  agentSocket: "/run/hearth/vm/vm1/agent.sock",
  consoleLog: "/run/hearth/vm/vm1/console.log",
  qemuLog: "/run/hearth/vm/vm1/qemu.log",
  devices: [
    { kind: "shared-directory-virtio-fs", tag: "hearthShared", socketPath: "/run/hearth/vm/vm1/virtiofsd.sock" },
  ],
  seccomp: true,
};

const NINE_P = { kind: "shared-directory-9p", tag: "hearthShared", path: "/a,b", readOnly: true } as const;

const CASES: Readonly<Record<string, BootOptions>> = {
  "tcg-virtio-fs": BASE,
  "kvm-virtio-fs": { ...BASE, accel: "kvm", vcpus: 2, tscKhz: 2_596_078 },
  "tcg-multi": { ...BASE, vcpus: 2, tscKhz: 2_596_078 },
  "9p-private-memory": { ...BASE, sharedMemory: false, devices: [NINE_P] },
  "pc-fixed-size": { ...BASE, machine: "pc", maxVcpus: 1, maxMemoryMib: 512, imageDevice: "virtio-blk", devices: [] },
  "no-seccomp-extra-params": { ...BASE, seccomp: false, kernelParams: ["debug", "loglevel=7"], vmId: "a,b" },
  "template-writer": { ...BASE, devices: [], memoryFile: { path: "/t/vm.mem", access: "shared" } },
  clone: {
    ...BASE,
    sharedMemory: false,
    devices: [],
    memoryFile: { path: "/t/vm.mem", access: "copy-on-write" },
    restore: { statePath: "/t/vm.state", ignoreShared: true },
  },
  "copied-clone": {
    ...BASE,
    devices: [],
    laterDevices: ["shared-directory-virtio-fs"],
    memoryFd: asFd(9),
    restore: { statePath: "/t/vm.state", ignoreShared: true },
  },
  vsock: { ...BASE, vsock: { cid: 4_294_967_294, fd: asFd(9) } },
  disks: {
    ...BASE,
    devices: [
      { kind: "block", id: "data", path: "/dev/vg/lv", readOnly: false, format: "raw" },
      { kind: "block", id: "seed", path: "/x/seed.qcow2", readOnly: true, format: "qcow2" },
    ],
  },
};

describe("qemuArguments", () => {
  test.each(Object.keys(CASES))("%s", (name) => {
    const options = CASES[name];
    if (options === undefined) throw new Error(`no case ${name}`);
    const text = `${qemuArguments(options, IMAGE_BYTES).join("\n")}\n`;
    const golden = join(import.meta.dir, "golden", `${name}.argv`);
    if (process.env["HEARTH_UPDATE_GOLDEN"] === "1") writeFileSync(golden, text);
    expect(text).toBe(readFileSync(golden, "utf8"));
  });

  test("does not change what it is given and gives the same again", () => {
    const frozen = Object.freeze({ ...BASE, devices: Object.freeze([...BASE.devices]) });
    expect(qemuArguments(frozen, IMAGE_BYTES)).toEqual(qemuArguments(BASE, IMAGE_BYTES));
  });

  test("an image of odd size is no persistent memory", () => {
    const argv = qemuArguments(BASE, IMAGE_BYTES + 512).join(" ");
    expect(argv).toContain("virtio-blk-pci,id=image");
    expect(argv).toContain("root=/dev/vda");
  });

  test.each([
    ["virtio-fs without shared memory", { sharedMemory: false }, "guest memory is not shared"],
    ["virtio-fs over a copy-on-write file", { memoryFile: { path: "/m", access: "copy-on-write" } }, "must be shared"],
    ["a NIC at boot", { devices: [{ kind: "nic", id: "n", tapFds: [3], mac: "" }] }, "running VM"],
    ["a command line too long", { kernelParams: ["x".repeat(3000)] }, "more than 2047"],
    ["a line break in it", { kernelParams: ["a\nb"] }, "line break"],
  ] satisfies readonly (readonly [string, Partial<BootOptions>, string])[])("refuses %s", (_, change, message) => {
    expect(() => qemuArguments({ ...BASE, ...change }, IMAGE_BYTES)).toThrow(message);
  });
});
