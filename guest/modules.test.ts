import { describe, expect, test } from "bun:test";
import { HearthError } from "../src/errors.ts";
import { moduleName, parseModulesDep, parseSoftDependencies, resolveModules, withoutSignature } from "./modules.ts";

const TABLE = parseModulesDep(
  [
    "kernel/fs/erofs/erofs.ko: kernel/lib/libcrc32c.ko",
    "kernel/lib/libcrc32c.ko:",
    "kernel/arch/x86/crypto/crc32c-intel.ko:",
    "kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio.ko.xz",
    "kernel/drivers/virtio/virtio.ko.xz:",
    "",
  ].join("\n"),
);
const SOFT = parseSoftDependencies("# aliases\nsoftdep libcrc32c pre: crc32c-intel nosuch post: virtio\n");

test.each([
  ["kernel/arch/x86/crypto/crc32c-intel.ko", "crc32c_intel"],
  ["a/b.ko.xz", "b"],
  ["b-c.ko.zst", "b_c"],
])("moduleName of %s is %s", (path, name) => {
  expect(moduleName(path)).toBe(name);
});

describe("resolveModules", () => {
  test("takes dependencies and soft dependencies along, sorted, each once", () => {
    expect(resolveModules(["erofs", "libcrc32c"], TABLE, new Set(), SOFT)).toEqual([
      "kernel/arch/x86/crypto/crc32c-intel.ko",
      "kernel/drivers/virtio/virtio.ko.xz",
      "kernel/fs/erofs/erofs.ko",
      "kernel/lib/libcrc32c.ko",
    ]);
  });

  test("leaves out what is built in", () => {
    expect(resolveModules(["libcrc32c"], TABLE, new Set(["libcrc32c"]), SOFT)).toEqual([]);
  });

  test("fails for a name that this kernel does not know", () => {
    expect(() => resolveModules(["erofs", "nosuch"], TABLE, new Set(), SOFT)).toThrow("find kernel module nosuch");
  });
});

describe("withoutSignature", () => {
  const signed = (contents: string, signatureBytes: number, claimed = signatureBytes): Uint8Array<ArrayBuffer> => {
    const info = new Uint8Array(12);
    new DataView(info.buffer).setUint32(8, claimed, false);
    const magic = new TextEncoder().encode("~Module signature appended~\n");
    return new Uint8Array([
      ...new TextEncoder().encode(contents),
      ...new Uint8Array(signatureBytes),
      ...info,
      ...magic,
    ]);
  };

  test("cuts signature, its description and the magic", () => {
    expect(new TextDecoder().decode(withoutSignature(signed("module", 256)))).toBe("module");
  });

  test("leaves an unsigned module alone", () => {
    const bytes = new Uint8Array(new TextEncoder().encode("module"));
    expect(withoutSignature(bytes)).toEqual(bytes);
  });

  test("refuses a signature longer than the file", () => {
    expect(() => withoutSignature(signed("module", 4, 4096))).toThrow(HearthError);
  });
});
