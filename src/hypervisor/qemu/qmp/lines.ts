/** Cuts a byte stream into lines, however it arrives in chunks, and refuses a line that is too long. */
import { HearthError } from "../../../errors.ts";

/** Feeds on chunks, gives back whole lines without their end (`\n` or `\r\n`). Bytes are UTF-8; others become U+FFFD. */
export class LineSplitter {
  readonly #maxBytes: number;
  readonly #decoder = new TextDecoder();
  #parts: Uint8Array[] = [];
  #pendingBytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** The lines that this chunk completes. A line of more than the limit is a "resource-exhausted" error. */
  push(chunk: Uint8Array): string[] {
    const lines: string[] = [];
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      this.#keep(chunk.subarray(start, end));
      lines.push(this.#take());
      start = end + 1;
    }
    // The caller may reuse the chunk's memory: what waits for its line end is a copy.
    if (start < chunk.length) this.#keep(chunk.slice(start));
    return lines;
  }

  /** Bytes of an unfinished line. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  #keep(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#pendingBytes += bytes.length;
    if (this.#pendingBytes > this.#maxBytes) {
      throw new HearthError("resource-exhausted", `read line: longer than ${this.#maxBytes} bytes`);
    }
    this.#parts.push(bytes);
  }

  #take(): string {
    const [only] = this.#parts;
    const bytes = this.#parts.length === 1 && only !== undefined ? only : Buffer.concat(this.#parts);
    this.#parts = [];
    this.#pendingBytes = 0;
    const text = this.#decoder.decode(bytes);
    return text.endsWith("\r") ? text.slice(0, -1) : text;
  }
}
