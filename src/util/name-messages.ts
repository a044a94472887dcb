/** Messages of the name service over a stream: two bytes of length before each. Source: RFC 1035, 4.2.2. */

const LENGTH_BYTES = 2;
export const NAME_MESSAGE_BYTES_MAX = 0xffff;

interface Source {
  read(): Promise<Uint8Array | null>;
}

/** Cuts a stream into messages; keeps one of them and a chunk at most. */
export class NameMessages {
  readonly #source: Source;
  #held: Uint8Array = new Uint8Array(0);

  constructor(source: Source) {
    this.#source = source;
  }

  /** The next whole one; null at the end of the stream, also within a message. */
  async next(): Promise<Uint8Array | null> {
    for (;;) {
      const message = this.#take();
      if (message !== undefined) return message;
      const chunk = await this.#source.read();
      if (chunk === null) return null;
      const held = new Uint8Array(this.#held.length + chunk.length);
      held.set(this.#held);
      held.set(chunk, this.#held.length);
      this.#held = held;
    }
  }

  #take(): Uint8Array | undefined {
    const [high, low] = this.#held;
    if (high === undefined || low === undefined) return undefined;
    const end = LENGTH_BYTES + high * 256 + low;
    if (this.#held.length < end) return undefined;
    const message = this.#held.slice(LENGTH_BYTES, end);
    this.#held = this.#held.subarray(end);
    return message;
  }
}

/** With its length; at most NAME_MESSAGE_BYTES_MAX bytes. */
export function framedName(message: Uint8Array): Uint8Array {
  const framed = new Uint8Array(LENGTH_BYTES + message.length);
  framed[0] = message.length >> 8;
  framed[1] = message.length & 0xff;
  framed.set(message, LENGTH_BYTES);
  return framed;
}
