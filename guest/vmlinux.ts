/** Turns a bzImage into the uncompressed vmlinux that QEMU starts at its PVH entry, without the decompressor. */
import { HearthError } from "../src/errors.ts";
import { run } from "./command.ts";
import { loadSegments, parseElf, readNotes } from "./elf.ts";

// Source: the kernel's Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
const SETUP_SECTORS_AT = 0x1f1;
const HEADER_MAGIC_AT = 0x202;
const HEADER_MAGIC = 0x53726448; // "HdrS"
const PROTOCOL_VERSION_AT = 0x206;
const PROTOCOL_WITH_PAYLOAD = 0x0208;
const PAYLOAD_OFFSET_AT = 0x248;
const PAYLOAD_LENGTH_AT = 0x24c;
const SECTOR_BYTES = 512;

// Source: xen/include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY.
const PVH_NOTE_NAME = "Xen";
const PVH_NOTE_TYPE = 18;

export type PayloadFormat = "xz" | "zstd" | "gzip" | "lz4" | "bzip2" | "lzma" | "elf";

const MAGICS: readonly { readonly format: PayloadFormat; readonly magic: readonly number[] }[] = [
  { format: "xz", magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00] },
  { format: "zstd", magic: [0x28, 0xb5, 0x2f, 0xfd] },
  { format: "gzip", magic: [0x1f, 0x8b] },
  { format: "lz4", magic: [0x02, 0x21, 0x4c, 0x18] },
  { format: "bzip2", magic: [0x42, 0x5a, 0x68] },
  { format: "lzma", magic: [0x5d, 0x00, 0x00] },
  { format: "elf", magic: [0x7f, 0x45, 0x4c, 0x46] },
];

/** Tools that read from standard input; what follows the stream (its length, for most formats) has to be ignored. */
const DECOMPRESSORS: Readonly<Record<Exclude<PayloadFormat, "elf">, readonly string[]>> = {
  xz: ["xz", "-dc", "--single-stream"],
  zstd: ["zstd", "-dcq"],
  gzip: ["gzip", "-dcq"],
  lz4: ["lz4", "-dcq"],
  bzip2: ["bzip2", "-dcq"],
  lzma: ["xz", "-dc", "--format=lzma"],
};

export interface KernelPayload {
  readonly format: PayloadFormat;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** The compressed kernel inside a bzImage. Errors: "invalid-argument" when it is not one. */
export function findPayload(image: Uint8Array<ArrayBuffer>): KernelPayload {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  if (image.length < 0x260 || view.getUint32(HEADER_MAGIC_AT, true) !== HEADER_MAGIC) {
    throw new HearthError("invalid-argument", "read kernel image: no x86 boot header");
  }
  if (view.getUint16(PROTOCOL_VERSION_AT, true) < PROTOCOL_WITH_PAYLOAD) {
    throw new HearthError("invalid-argument", "read kernel image: boot protocol without payload fields");
  }
  const setupSectors = image[SETUP_SECTORS_AT] || 4; // 0 means 4, for ancient kernels
  const start = (setupSectors + 1) * SECTOR_BYTES + view.getUint32(PAYLOAD_OFFSET_AT, true);
  const length = view.getUint32(PAYLOAD_LENGTH_AT, true);
  if (length === 0 || start + length > image.length) {
    throw new HearthError("invalid-argument", "read kernel image: payload outside the file", {
      facts: { start, length, fileBytes: image.length },
    });
  }
  const bytes = image.subarray(start, start + length);
  const found = MAGICS.find(({ magic }) => magic.every((byte, index) => bytes[index] === byte));
  if (found === undefined) throw new HearthError("invalid-argument", "read kernel image: unknown payload compression");
  return { format: found.format, bytes };
}

/** The 32-bit PVH entry address, or undefined when QEMU could not start this kernel directly. */
export function pvhEntry(vmlinux: Uint8Array): number | undefined {
  const note = readNotes(parseElf(vmlinux)).find(({ name, type }) => name === PVH_NOTE_NAME && type === PVH_NOTE_TYPE);
  if (note === undefined || note.description.length < 4) return undefined;
  return new DataView(note.description.buffer, note.description.byteOffset).getUint32(0, true);
}

/**
 * The same kernel with each segment's trailing zeros cut (its bss is stored in full there), and without section headers
 * and whatever follows the segments: a third smaller, and loaded that much faster. A segment's size in memory is cut as
 * well, so that QEMU does not write those zeros into guest memory: that is zero when a VM starts, and the kernel clears
 * its own bss. 4 MiB of scratch space that only a host with encrypted memory uses stay untouched.
 */
export function trimVmlinux(vmlinux: Uint8Array): Uint8Array<ArrayBuffer> {
  const elf = parseElf(vmlinux);
  const header = new Uint8Array(vmlinux.subarray(0, elf.segments[0]?.offset ?? vmlinux.length));
  const view = new DataView(header.buffer);
  view.setBigUint64(0x28, 0n, true); // e_shoff
  view.setUint16(0x3c, 0, true); // e_shnum
  view.setUint16(0x3e, 0, true); // e_shstrndx
  let end = 0;
  for (const segment of loadSegments(elf)) {
    let fileBytes = segment.fileBytes;
    while (fileBytes > 0 && vmlinux[segment.offset + fileBytes - 1] === 0) fileBytes--;
    view.setBigUint64(segment.headerOffset + 32, BigInt(fileBytes), true); // p_filesz
    view.setBigUint64(segment.headerOffset + 40, BigInt(fileBytes), true); // p_memsz
    end = Math.max(end, segment.offset + fileBytes);
  }
  const trimmed = new Uint8Array(vmlinux.subarray(0, end));
  trimmed.set(header, 0);
  return trimmed;
}

/** Errors: "invalid-argument" when the image holds no kernel that can be started at a PVH entry. */
export async function extractVmlinux(image: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const payload = findPayload(image);
  const vmlinux =
    payload.format === "elf" ? payload.bytes : await run(DECOMPRESSORS[payload.format], { input: payload.bytes });
  if (pvhEntry(vmlinux) === undefined) {
    throw new HearthError("invalid-argument", "read kernel image: no PVH entry note", {
      hint: "the kernel needs CONFIG_PVH=y",
    });
  }
  return trimVmlinux(vmlinux);
}
