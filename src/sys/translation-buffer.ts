/** Under emulation: code that the emulator has to translate, so that its buffer of translated code is full and begun anew. */
import { linkSymbols } from "bun:ffi";
import { type MappedPages, mapPages, rewriteCode } from "./code-page.ts";

/** Each jump is a block of its own for the emulator, of some 270 bytes when translated: 8.7 MiB for all of them. */
const PAGES = 16;
/** To the next instruction. */
const JUMP = [0xeb, 0x00] as const;
const RET = 0xc3;

let area: { readonly pages: MappedPages; readonly run: () => void } | undefined;

/** Some 0.16 s; without effect where a CPU runs the guest. */
export function fillTranslationBuffer(): void {
  area ??= makeArea();
  // What was written anew is translated anew, though it is the same.
  rewriteCode(area.pages);
  area.run();
}

function makeArea() {
  const pages = mapPages(PAGES);
  const { at, bytes } = pages;
  for (let offset = 0; offset < bytes.length; offset += JUMP.length) bytes.set(JUMP, offset);
  bytes[bytes.length - JUMP.length] = RET;
  const { run } = linkSymbols({ run: { ptr: at, args: [], returns: "void" } }).symbols;
  return { pages, run: () => void run() };
}
