/** A program of one system call, for calls that no tool makes. */

const LOAD_ADDRESS = 0x400000;
const HEADER_BYTES = 64;
const SEGMENT_BYTES = 56;

/** A static x86_64 executable that makes the call without arguments and exits with its errno. Source: elf(5), syscall(2). */
export function systemCallProgram(call: number): Uint8Array {
  const code = [
    ...[0xb8, call & 0xff, (call >> 8) & 0xff, (call >> 16) & 0xff, (call >> 24) & 0xff], // mov eax, call
    ...[0x0f, 0x05], // syscall
    ...[0xf7, 0xd8], // neg eax
    ...[0x89, 0xc7], // mov edi, eax
    ...[0xb8, 231, 0, 0, 0], // mov eax, exit_group
    ...[0x0f, 0x05], // syscall
  ];
  const start = HEADER_BYTES + SEGMENT_BYTES;
  const bytes = new Uint8Array(start + code.length);
  const view = new DataView(bytes.buffer);
  const u64 = (at: number, value: number): void => view.setBigUint64(at, BigInt(value), true);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // ELF, 64 bits, little-endian, version 1
  view.setUint16(16, 2, true); // executable
  view.setUint16(18, 62, true); // x86-64
  view.setUint32(20, 1, true);
  u64(24, LOAD_ADDRESS + start); // entry
  u64(32, HEADER_BYTES); // program headers
  view.setUint16(52, HEADER_BYTES, true);
  view.setUint16(54, SEGMENT_BYTES, true);
  view.setUint16(56, 1, true);
  view.setUint32(HEADER_BYTES, 1, true); // to be loaded
  view.setUint32(HEADER_BYTES + 4, 5, true); // readable, executable
  u64(HEADER_BYTES + 16, LOAD_ADDRESS);
  u64(HEADER_BYTES + 24, LOAD_ADDRESS);
  u64(HEADER_BYTES + 32, bytes.length);
  u64(HEADER_BYTES + 40, bytes.length);
  u64(HEADER_BYTES + 48, 0x1000);
  bytes.set(code, start);
  return bytes;
}
