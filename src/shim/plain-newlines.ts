/**
 * Undoes what a terminal does to the ends of lines, for output that goes on to a file or pipe: the guest's terminal sends
 * "\r\n" for every "\n" that the process wrote, so each "\r\n" was one "\n". As runc, whose containers write to a
 * terminal that leaves newlines alone.
 */
const RETURN = 13;
const NEWLINE = 10;

export class PlainNewlines {
  /** The last byte so far was a "\r" that the next one may belong to. */
  #held = false;

  /** What can be passed on now; a "\r" at the end waits for what follows it. */
  push(data: Uint8Array): Uint8Array {
    const out = new Uint8Array(data.length + 1);
    let length = 0;
    for (const byte of data) {
      if (this.#held && byte !== NEWLINE) out[length++] = RETURN;
      this.#held = byte === RETURN;
      if (!this.#held) out[length++] = byte;
    }
    return out.subarray(0, length);
  }

  /** What was kept back, at the end of the stream. */
  end(): Uint8Array {
    const rest = this.#held ? [RETURN] : [];
    this.#held = false;
    return Uint8Array.from(rest);
  }
}
