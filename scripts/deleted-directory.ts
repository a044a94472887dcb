/**
 * Bun's executables refuse to start in a working directory that has no path: one that has been deleted, where a script's clean-up
 * may well be (`rm -rf "$work"; podman rm -f c1`), unmounted, or too deep. runc works there. So the executable gets a few
 * instructions before its first that leave such a directory for /.
 */
import { closeSync, fstatSync, openSync, readSync, writeSync } from "node:fs";

/** Offsets and numbers are those of elf(5), ELF64. */
const HEADER_BYTES = 4096;
const ENTRY = 24;
const PROGRAM_HEADERS = 32;
const PROGRAM_HEADER_BYTES = 56;
const PROGRAM_HEADER_COUNT = 56;
const PT_LOAD = 1;
const PT_NOTE = 4;
const READABLE_AND_EXECUTABLE = 5;
const PAGE = 4096n;

/** In place. Fails for what is not an executable of fixed addresses with a segment of notes, whose header the new one takes. */
export function survivesDeletedDirectory(executable: string): void {
  const fd = openSync(executable, "r+");
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    readSync(fd, header, 0, HEADER_BYTES, 0);
    const { notes, end } = segments(header, executable);
    const offset = roundUp(BigInt(fstatSync(fd).size));
    const address = roundUp(end);
    const code = leaveDeletedDirectory(address, header.readBigUInt64LE(ENTRY));
    writeSync(fd, code, 0, code.length, Number(offset));
    header.writeUInt32LE(PT_LOAD, notes);
    header.writeUInt32LE(READABLE_AND_EXECUTABLE, notes + 4);
    const length = BigInt(code.length);
    [offset, address, address, length, length, PAGE].forEach((field, index) => {
      header.writeBigUInt64LE(field, notes + 8 + 8 * index);
    });
    header.writeBigUInt64LE(address, ENTRY);
    writeSync(fd, header, 0, HEADER_BYTES, 0);
  } finally {
    closeSync(fd);
  }
}

/** Where the header of the notes is in the file, and where the last segment ends in memory. */
function segments(header: Buffer, executable: string): { readonly notes: number; readonly end: bigint } {
  const first = Number(header.readBigUInt64LE(PROGRAM_HEADERS));
  const count = header.readUInt16LE(PROGRAM_HEADER_COUNT);
  const all = Array.from({ length: count }, (_, index) => first + PROGRAM_HEADER_BYTES * index);
  const ofType = (type: number): number[] => all.filter((at) => header.readUInt32LE(at) === type);
  const [notes] = ofType(PT_NOTE);
  const last = ofType(PT_LOAD).at(-1);
  const ET_EXEC = 2;
  if (notes === undefined || last === undefined || notes < last || header.readUInt16LE(16) !== ET_EXEC) {
    throw new Error(`give ${executable} another entry: it is laid out in another way`);
  }
  return { notes, end: header.readBigUInt64LE(last + 16) + header.readBigUInt64LE(last + 40) };
}

/** Keeps every register but those that system calls may change anyway. It stands at `address` and goes on at `entry`. */
function leaveDeletedDirectory(address: bigint, entry: bigint): Buffer {
  const code = [
    ...[0x48, 0x81, 0xec, ...u32(4096)], // sub rsp, PATH_MAX
    ...[0xc6, 0x04, 0x24, 0], // mov byte [rsp], 0: stays when there is an error
    ...[0x48, 0x89, 0xe7], // mov rdi, rsp
    ...[0xbe, ...u32(4096)], // mov esi, PATH_MAX
    ...[0xb8, ...u32(79)], // mov eax, getcwd
    ...[0x0f, 0x05], // syscall
    ...[0x80, 0x3c, 0x24, 0x2f], // cmp byte [rsp], '/': "(unreachable)" begins otherwise
    ...[0x48, 0x8d, 0xa4, 0x24, ...u32(4096)], // lea rsp, [rsp + PATH_MAX]
    ...[0x74, 14], // je past the next three
    ...[0x48, 0x8d, 0x3d, ...u32(12)], // lea rdi, the path at the end
    ...[0xb8, ...u32(80)], // mov eax, chdir
    ...[0x0f, 0x05], // syscall
  ];
  const JUMP_BYTES = 5;
  const distance = Number(entry - (address + BigInt(code.length + JUMP_BYTES)));
  return Buffer.from([...code, 0xe9, ...u32(distance), ...Buffer.from("/\0")]);
}

function u32(value: number): number[] {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return [...bytes];
}

function roundUp(value: bigint): bigint {
  return ((value + PAGE - 1n) / PAGE) * PAGE;
}
