import { describe, expect, test } from "bun:test";
import { HearthError } from "../src/errors.ts";
import { loadSegments, parseElf } from "./elf.ts";
import { extractVmlinux, findPayload, pvhEntry, trimVmlinux } from "./vmlinux.ts";

const PVH_ENTRY = 0x1000abc;
const TEXT_AT = 0x200;

/** An ELF file of one loaded segment (64 bytes of code, `zeros` bytes of nothing) and one note. */
function tinyKernel(noteType: number, zeros: number): Uint8Array<ArrayBuffer> {
  const noteAt = 0x100;
  const bytes = new Uint8Array(TEXT_AT + 64 + zeros + 32);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setBigUint64(0x20, 64n, true); // program headers
  view.setBigUint64(0x28, BigInt(bytes.length - 32), true); // section headers
  view.setUint16(0x36, 56, true);
  view.setUint16(0x38, 2, true);
  view.setUint16(0x3c, 1, true);
  const segment = (index: number, type: number, offset: number, size: number): void => {
    const at = 64 + index * 56;
    view.setUint32(at, type, true);
    view.setBigUint64(at + 8, BigInt(offset), true);
    view.setBigUint64(at + 16, 0x1000000n, true);
    view.setBigUint64(at + 32, BigInt(size), true);
    view.setBigUint64(at + 40, BigInt(size), true);
  };
  segment(0, 1, TEXT_AT, 64 + zeros);
  segment(1, 4, noteAt, 20);
  view.setUint32(noteAt, 4, true);
  view.setUint32(noteAt + 4, 4, true);
  view.setUint32(noteAt + 8, noteType, true);
  bytes.set(new TextEncoder().encode("Xen\0"), noteAt + 12);
  view.setUint32(noteAt + 16, PVH_ENTRY, true);
  bytes.fill(0x90, TEXT_AT, TEXT_AT + 64);
  return bytes;
}

/** A bzImage of one set-up sector around a payload. */
function bzImage(payload: Uint8Array, version = 0x020f): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(1024 + 0x10 + payload.length);
  const view = new DataView(bytes.buffer);
  bytes[0x1f1] = 1;
  view.setUint32(0x202, 0x53726448, true);
  view.setUint16(0x206, version, true);
  view.setUint32(0x248, 0x10, true);
  view.setUint32(0x24c, payload.length, true);
  bytes.set(payload, 1024 + 0x10);
  return bytes;
}

describe("findPayload", () => {
  test.each([
    ["xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
    ["zstd", [0x28, 0xb5, 0x2f, 0xfd]],
    ["gzip", [0x1f, 0x8b, 8, 0]],
    ["lz4", [0x02, 0x21, 0x4c, 0x18]],
  ])("knows %s by its magic", (format, magic) => {
    const found = findPayload(bzImage(new Uint8Array([...magic, 1, 2, 3])));
    expect(found.format as string).toBe(format);
    expect([...found.bytes.subarray(0, magic.length)]).toEqual(magic);
  });

  const lying = bzImage(new Uint8Array(8));
  new DataView(lying.buffer).setUint32(0x24c, 1 << 20, true);
  test.each([
    ["an empty file", new Uint8Array()],
    ["zeros", new Uint8Array(4096)],
    ["an old boot protocol", bzImage(new Uint8Array([0x1f, 0x8b]), 0x0207)],
    ["an unknown compression", bzImage(new Uint8Array([1, 2, 3, 4]))],
    ["a payload longer than the file", lying],
  ])("refuses %s", (_, image) => {
    expect(() => findPayload(image)).toThrow(HearthError);
  });
});

describe("extractVmlinux", () => {
  test("unpacks a gzip payload and finds the PVH entry", async () => {
    const kernel = await extractVmlinux(bzImage(Bun.gzipSync(tinyKernel(18, 8192))));
    expect(pvhEntry(kernel)).toBe(PVH_ENTRY);
  });

  test("refuses a kernel without PVH entry", async () => {
    await expect(extractVmlinux(bzImage(tinyKernel(6, 0)))).rejects.toThrow("no PVH entry");
  });
});

test("trimVmlinux keeps the code and cuts zeros, section headers and what follows", () => {
  const trimmed = trimVmlinux(tinyKernel(18, 8192));
  expect(trimmed.length).toBe(TEXT_AT + 64);
  const elf = parseElf(trimmed);
  expect(loadSegments(elf)).toMatchObject([{ offset: TEXT_AT, fileBytes: 64, memoryBytes: 64 }]);
  expect(trimmed.subarray(TEXT_AT).every((byte) => byte === 0x90)).toBe(true);
  expect(new DataView(trimmed.buffer).getUint16(0x3c, true)).toBe(0);
});
