/** The bytes of protobuf: tags, varints and length-delimited fields. Source: protobuf.dev/programming-guides/encoding. */
import { HearthError } from "../errors.ts";

export const WIRE_VARINT = 0;
export const WIRE_FIXED64 = 1;
export const WIRE_BYTES = 2;
export const WIRE_FIXED32 = 5;

const INITIAL_BYTES = 256;
const VARINT_BYTES_MAX = 10;

/** Grows as it is written to. */
export class WireWriter {
  #bytes = new Uint8Array(INITIAL_BYTES);
  #length = 0;

  /** What was written so far; a view, valid until the next write. */
  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  tag(field: number, wireType: number): void {
    this.uint32((field << 3) | wireType);
  }

  uint32(value: number): void {
    let left = value >>> 0;
    this.#reserve(5);
    while (left > 0x7f) {
      this.#bytes[this.#length++] = (left & 0x7f) | 0x80;
      left >>>= 7;
    }
    this.#bytes[this.#length++] = left;
  }

  /** Negative numbers take ten bytes, as a 64-bit integer. */
  int32(value: number): void {
    if (value >= 0) this.uint32(value);
    else this.uint64(BigInt(value));
  }

  /** Signed or unsigned: the 64 bits are the same. */
  uint64(value: bigint): void {
    let left = BigInt.asUintN(64, value);
    this.#reserve(VARINT_BYTES_MAX);
    while (left > 0x7fn) {
      this.#bytes[this.#length++] = Number(left & 0x7fn) | 0x80;
      left >>= 7n;
    }
    this.#bytes[this.#length++] = Number(left);
  }

  /** With their length in front. */
  bytes(value: Uint8Array): void {
    this.uint32(value.length);
    this.raw(value);
  }

  /** As they are: fields that were encoded before. */
  raw(value: Uint8Array): void {
    this.#reserve(value.length);
    this.#bytes.set(value, this.#length);
    this.#length += value.length;
  }

  #reserve(count: number): void {
    const needed = this.#length + count;
    if (needed <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(needed, this.#bytes.length * 2));
    larger.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = larger;
  }
}

/** Reads what it is given; whatever does not fit is "invalid-argument". */
export class WireReader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get atEnd(): boolean {
    return this.#at >= this.#bytes.length;
  }

  tag(): { readonly field: number; readonly wireType: number } {
    const tag = this.uint32();
    const field = tag >>> 3;
    if (field === 0) throw malformed("field number 0");
    return { field, wireType: tag & 7 };
  }

  /** The low 32 bits of a varint. */
  uint32(): number {
    let value = 0;
    for (let index = 0; index < VARINT_BYTES_MAX; index++) {
      const byte = this.#byte();
      if (index < 5) value |= (byte & 0x7f) << (7 * index);
      if (byte < 0x80) return value >>> 0;
    }
    throw malformed("varint over ten bytes");
  }

  int32(): number {
    return this.uint32() | 0;
  }

  uint64(): bigint {
    let value = 0n;
    for (let index = 0; index < VARINT_BYTES_MAX; index++) {
      const byte = this.#byte();
      value |= BigInt(byte & 0x7f) << BigInt(7 * index);
      if (byte < 0x80) return BigInt.asUintN(64, value);
    }
    throw malformed("varint over ten bytes");
  }

  bool(): boolean {
    return this.uint64() !== 0n;
  }

  /** A view into what is read. */
  bytes(): Uint8Array {
    const length = this.uint32();
    if (length > this.#bytes.length - this.#at) throw malformed("field longer than its message");
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  skip(wireType: number): void {
    switch (wireType) {
      case WIRE_VARINT:
        this.uint64();
        return;
      case WIRE_BYTES:
        this.bytes();
        return;
      case WIRE_FIXED64:
      case WIRE_FIXED32:
        this.#at += wireType === WIRE_FIXED64 ? 8 : 4;
        if (this.#at > this.#bytes.length) throw malformed("field longer than its message");
        return;
      default:
        throw malformed(`wire type ${wireType}`);
    }
  }

  #byte(): number {
    const byte = this.#bytes[this.#at++];
    if (byte === undefined) throw malformed("message ends within a field");
    return byte;
  }
}

function malformed(what: string): HearthError {
  return new HearthError("invalid-argument", `decode protobuf: ${what}`);
}
