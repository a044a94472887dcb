import { expect, test } from "bun:test";
import { baseIdentityDigest, IDENTITY_FIELDS, identityDigest, type VmConfig } from "./vm-config.ts";

const CONFIG: VmConfig = {
  hypervisor: "qemu",
  qemuPath: "/q",
  machine: "q35",
  accel: "tcg",
  kernel: "/k",
  initrd: "/i",
  image: "/m",
  guestDigest: "00",
  programsDigest: "00",
  hearthVersion: "1",
  kernelParams: [],
  vcpus: 1,
  maxVcpus: 2,
  memoryMib: 256,
  maxMemoryMib: 512,
  sharedFs: "virtio-9p",
  virtiofsdPath: "",
  transport: "virtio-serial",
  seccomp: true,
  bootTimeoutMs: 20_000,
};

/** Another value of the same kind; whether it means anything does not matter to a digest. */
function another(value: VmConfig[keyof VmConfig]): unknown {
  if (typeof value === "number") return value + 1;
  if (typeof value === "boolean") return !value;
  return typeof value === "string" ? `${value}x` : ["x"];
}

test("every field of a VM's configuration has its say in the identity, or its reason for none", () => {
  expect(Object.keys(IDENTITY_FIELDS).sort()).toEqual(Object.keys(CONFIG).sort());
  for (const [field, value] of Object.entries(CONFIG)) {
    const changed = { ...CONFIG, [field]: another(value) };
    const isPart = identityDigest(changed) !== identityDigest(CONFIG);
    const isPartOfBase = baseIdentityDigest(changed) !== baseIdentityDigest(CONFIG);
    const declared: boolean | string | undefined = Object.entries(IDENTITY_FIELDS).find(
      ([name]) => name === field,
    )?.[1];
    expect([field, isPart]).toEqual([field, declared ?? "not declared"]);
    expect([field, isPartOfBase]).toEqual([field, isPart && field !== "vcpus" && field !== "memoryMib"]);
  }
});
