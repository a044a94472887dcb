/** The smallest kernel QEMU boots: it stops the processor at once. For tests of QEMU that need no guest. */

const LOAD_ADDRESS = 0x100000;
const EHDR_BYTES = 64;
const PHDR_BYTES = 56;
/** cli; again: hlt; jmp again */
const CODE = [0xfa, 0xf4, 0xeb, 0xfd];
/** Type of the ELF note with the 32-bit entry. Source: Xen public/elfnote.h; hw/i386/x86.c reads it. */
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

/** An ELF64 executable with a PVH entry, for `-kernel`. */
export function haltingKernel(): Uint8Array {
  const noteAt = EHDR_BYTES + 2 * PHDR_BYTES;
  const noteBytes = 12 + 4 + 8;
  const codeAt = noteAt + noteBytes;
  const bytes = new Uint8Array(codeAt + CODE.length);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true); // ET_EXEC
  view.setUint16(18, 62, true); // EM_X86_64
  view.setUint32(20, 1, true);
  const entry = LOAD_ADDRESS + codeAt;
  view.setBigUint64(24, BigInt(entry), true);
  view.setBigUint64(32, BigInt(EHDR_BYTES), true); // e_phoff
  view.setUint16(52, EHDR_BYTES, true);
  view.setUint16(54, PHDR_BYTES, true);
  view.setUint16(56, 2, true);
  programHeader(view, EHDR_BYTES, { type: 1, offset: 0, bytes: bytes.length });
  programHeader(view, EHDR_BYTES + PHDR_BYTES, { type: 4, offset: noteAt, bytes: noteBytes });
  view.setUint32(noteAt, 4, true);
  view.setUint32(noteAt + 4, 8, true);
  view.setUint32(noteAt + 8, XEN_ELFNOTE_PHYS32_ENTRY, true);
  bytes.set(new TextEncoder().encode("Xen\0"), noteAt + 12);
  view.setBigUint64(noteAt + 16, BigInt(entry), true);
  bytes.set(CODE, codeAt);
  return bytes;
}

function programHeader(
  view: DataView,
  at: number,
  segment: { readonly type: number; readonly offset: number; readonly bytes: number },
): void {
  view.setUint32(at, segment.type, true);
  view.setUint32(at + 4, 5, true); // read, execute
  view.setBigUint64(at + 8, BigInt(segment.offset), true);
  view.setBigUint64(at + 16, BigInt(LOAD_ADDRESS + segment.offset), true);
  view.setBigUint64(at + 24, BigInt(LOAD_ADDRESS + segment.offset), true);
  view.setBigUint64(at + 32, BigInt(segment.bytes), true);
  view.setBigUint64(at + 40, BigInt(segment.bytes), true);
  view.setBigUint64(at + 48, 4n, true);
}
