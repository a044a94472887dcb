/** Reads the few parts of 64-bit little-endian ELF files that the guest build needs: segments, notes, needed libraries. */
import { HearthError } from "../src/errors.ts";

// Source: elf(5).
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const PT_NOTE = 4;
const DT_NULL = 0n;
const DT_NEEDED = 1n;
const DT_STRTAB = 5n;
const HEADER_BYTES = 64;
const SEGMENT_BYTES_MIN = 56;

export interface ElfSegment {
  readonly type: number;
  /** File position of this segment's program header. */
  readonly headerOffset: number;
  readonly offset: number;
  readonly virtualAddress: number;
  readonly fileBytes: number;
  readonly memoryBytes: number;
}

export interface ElfNote {
  readonly name: string;
  readonly type: number;
  readonly description: Uint8Array;
}

export interface ElfFile {
  readonly bytes: Uint8Array;
  readonly segments: readonly ElfSegment[];
}

export function isElf(bytes: Uint8Array): boolean {
  return (
    bytes.length >= HEADER_BYTES && bytes[0] === 0x7f && bytes[1] === 0x45 && bytes[2] === 0x4c && bytes[3] === 0x46
  );
}

/** Errors: "invalid-argument" for anything but a whole 64-bit little-endian ELF file. */
export function parseElf(bytes: Uint8Array): ElfFile {
  if (!isElf(bytes) || bytes[4] !== 2 || bytes[5] !== 1) {
    throw new HearthError("invalid-argument", "parse elf file: not a 64-bit little-endian ELF file");
  }
  const view = viewOf(bytes);
  const tableOffset = Number(view.getBigUint64(0x20, true));
  const entryBytes = view.getUint16(0x36, true);
  const count = view.getUint16(0x38, true);
  if (entryBytes < SEGMENT_BYTES_MIN || tableOffset + entryBytes * count > bytes.length) {
    throw new HearthError("invalid-argument", "parse elf file: program headers outside the file");
  }
  const segments: ElfSegment[] = [];
  for (let index = 0; index < count; index++) {
    const at = tableOffset + index * entryBytes;
    const segment: ElfSegment = {
      type: view.getUint32(at, true),
      headerOffset: at,
      offset: Number(view.getBigUint64(at + 8, true)),
      virtualAddress: Number(view.getBigUint64(at + 16, true)),
      fileBytes: Number(view.getBigUint64(at + 32, true)),
      memoryBytes: Number(view.getBigUint64(at + 40, true)),
    };
    if (segment.offset + segment.fileBytes > bytes.length) {
      throw new HearthError("invalid-argument", "parse elf file: segment outside the file", { facts: { index } });
    }
    segments.push(segment);
  }
  return { bytes, segments };
}

export function loadSegments(elf: ElfFile): readonly ElfSegment[] {
  return elf.segments.filter((segment) => segment.type === PT_LOAD);
}

export function readNotes(elf: ElfFile): readonly ElfNote[] {
  const notes: ElfNote[] = [];
  for (const segment of elf.segments.filter((each) => each.type === PT_NOTE)) {
    const bytes = elf.bytes.subarray(segment.offset, segment.offset + segment.fileBytes);
    const view = viewOf(bytes);
    for (let at = 0; at + 12 <= bytes.length; ) {
      const nameBytes = view.getUint32(at, true);
      const descriptionBytes = view.getUint32(at + 4, true);
      const nameAt = at + 12;
      const descriptionAt = nameAt + alignUp(nameBytes, 4);
      if (descriptionAt + descriptionBytes > bytes.length) break;
      notes.push({
        name: new TextDecoder().decode(bytes.subarray(nameAt, nameAt + Math.max(0, nameBytes - 1))),
        type: view.getUint32(at + 8, true),
        description: bytes.subarray(descriptionAt, descriptionAt + descriptionBytes),
      });
      at = descriptionAt + alignUp(descriptionBytes, 4);
    }
  }
  return notes;
}

/** Path of the dynamic loader, undefined for a static program or a library. */
export function readInterpreter(elf: ElfFile): string | undefined {
  const segment = elf.segments.find((each) => each.type === PT_INTERP);
  return segment === undefined ? undefined : readString(elf.bytes, segment.offset);
}

/** Names of the shared libraries it asks for, in file order. */
export function readNeeded(elf: ElfFile): readonly string[] {
  const dynamic = elf.segments.find((segment) => segment.type === PT_DYNAMIC);
  if (dynamic === undefined) return [];
  const view = viewOf(elf.bytes);
  const offsets: number[] = [];
  let stringsAddress: number | undefined;
  for (let at = dynamic.offset; at + 16 <= dynamic.offset + dynamic.fileBytes; at += 16) {
    const tag = view.getBigUint64(at, true);
    const value = Number(view.getBigUint64(at + 8, true));
    if (tag === DT_NULL) break;
    if (tag === DT_NEEDED) offsets.push(value);
    if (tag === DT_STRTAB) stringsAddress = value;
  }
  if (stringsAddress === undefined) return [];
  const strings = fileOffsetOf(elf, stringsAddress);
  return offsets.map((offset) => readString(elf.bytes, strings + offset));
}

function fileOffsetOf(elf: ElfFile, address: number): number {
  const segment = loadSegments(elf).find(
    (each) => address >= each.virtualAddress && address < each.virtualAddress + each.fileBytes,
  );
  if (segment === undefined) {
    throw new HearthError("invalid-argument", "parse elf file: address outside every segment", { facts: { address } });
  }
  return segment.offset + address - segment.virtualAddress;
}

function readString(bytes: Uint8Array, offset: number): string {
  const end = bytes.indexOf(0, offset);
  return new TextDecoder().decode(bytes.subarray(offset, end === -1 ? bytes.length : end));
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}
