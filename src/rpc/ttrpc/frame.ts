/**
 * The frames of ttRPC: a 10-byte header (u32 length, u32 stream id, u8 type, u8 flags; big endian) and the payload.
 * Source: containerd/ttrpc PROTOCOL.md.
 */
import { assert, HearthError } from "../../errors.ts";
import { TTRPC_MESSAGE_BYTES_MAX } from "../../limits.ts";

export const FRAME_HEADER_BYTES = 10;
export const STREAM_ID_MAX = 0xffff_ffff;

export const FRAME_REQUEST = 1;
export const FRAME_RESPONSE = 2;
export const FRAME_DATA = 3;
export type FrameType = typeof FRAME_REQUEST | typeof FRAME_RESPONSE | typeof FRAME_DATA;

/** The sender will send no more on this stream. */
export const FLAG_REMOTE_CLOSED = 1;
/** The sender will send data frames on this stream. */
export const FLAG_REMOTE_OPEN = 2;
/** The data frame carries nothing, not even an empty message. */
export const FLAG_NO_DATA = 4;

export interface Frame {
  readonly streamId: number;
  readonly type: FrameType;
  readonly flags: number;
  /** May be a view into a chunk that was pushed. Undefined: it was over the limit and has been skipped. */
  readonly payload: Uint8Array | undefined;
}

/** The whole frame. A payload over the limit is "resource-exhausted". */
export function encodeFrame(streamId: number, type: FrameType, flags: number, payload: Uint8Array): Uint8Array {
  return concatenate(encodeHeader(streamId, type, flags, payload.length), payload);
}

/**
 * A frame whose payload is `head` and then `body`, to be written piece by piece: a large body is one of them, as it is.
 * One over the limit together is "resource-exhausted".
 */
export function encodeFramePieces(
  streamId: number,
  type: FrameType,
  head: Uint8Array,
  body: Uint8Array,
): readonly Uint8Array[] {
  const header = encodeHeader(streamId, type, 0, head.length + body.length);
  return body.length < UNCOPIED_BYTES_MIN ? [concatenate(header, head, body)] : [concatenate(header, head), body];
}

/** Below this a copy costs less than another write. */
const UNCOPIED_BYTES_MIN = 16 * 1024;

function encodeHeader(streamId: number, type: FrameType, flags: number, length: number): Uint8Array {
  assert(Number.isInteger(streamId) && streamId >= 0 && streamId <= STREAM_ID_MAX, `stream id ${streamId}`);
  if (length > TTRPC_MESSAGE_BYTES_MAX) {
    throw new HearthError(
      "resource-exhausted",
      `encode ttrpc message: ${length} bytes, at most ${TTRPC_MESSAGE_BYTES_MAX}`,
    );
  }
  const header = new Uint8Array(FRAME_HEADER_BYTES);
  const view = new DataView(header.buffer);
  view.setUint32(0, length);
  view.setUint32(4, streamId);
  header[8] = type;
  header[9] = flags;
  return header;
}

function concatenate(...pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

interface Header {
  readonly length: number;
  readonly streamId: number;
  readonly type: FrameType;
  readonly flags: number;
}

/**
 * Cuts a byte stream into frames, however it is chunked. A frame over the limit is skipped without being buffered and
 * reported without its payload, so that the stream stays usable. Holds at most one message.
 */
export class FrameDecoder {
  readonly #header = new Uint8Array(FRAME_HEADER_BYTES);
  #headerFilled = 0;
  #current: Header | undefined;
  /** The current payload when it did not come in one chunk. */
  #partial: Uint8Array | undefined;
  #payloadFilled = 0;

  /** True between two frames: the stream may end here. */
  get atBoundary(): boolean {
    return this.#current === undefined && this.#headerFilled === 0;
  }

  /**
   * The frames that this chunk completes. The chunk must not be changed afterwards. A header that cannot be one of
   * ttRPC is "invalid-argument", and the decoder must not be used again.
   */
  push(chunk: Uint8Array): Frame[] {
    const frames: Frame[] = [];
    let at = 0;
    while (at < chunk.length || this.#isComplete()) {
      if (this.#current === undefined) {
        const taken = Math.min(FRAME_HEADER_BYTES - this.#headerFilled, chunk.length - at);
        this.#header.set(chunk.subarray(at, at + taken), this.#headerFilled);
        this.#headerFilled += taken;
        at += taken;
        if (this.#headerFilled < FRAME_HEADER_BYTES) break;
        this.#current = parseHeader(this.#header);
        continue;
      }
      const header = this.#current;
      const piece = chunk.subarray(at, at + header.length - this.#payloadFilled);
      at += piece.length;
      const payload = this.#collect(header.length, piece);
      if (this.#payloadFilled < header.length) break;
      frames.push({ streamId: header.streamId, type: header.type, flags: header.flags, payload });
      this.#current = undefined;
      this.#headerFilled = 0;
      this.#payloadFilled = 0;
      this.#partial = undefined;
    }
    return frames;
  }

  #isComplete(): boolean {
    return this.#current !== undefined && this.#current.length === this.#payloadFilled;
  }

  /** The payload so far; what came in one chunk is not copied, what is over the limit is not kept. */
  #collect(length: number, piece: Uint8Array): Uint8Array | undefined {
    const filled = this.#payloadFilled;
    this.#payloadFilled += piece.length;
    if (length > TTRPC_MESSAGE_BYTES_MAX) return undefined;
    if (filled === 0 && piece.length === length) return piece;
    this.#partial ??= new Uint8Array(length);
    this.#partial.set(piece, filled);
    return this.#partial;
  }
}

function parseHeader(bytes: Uint8Array): Header {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const type = view.getUint8(8);
  if (type !== FRAME_REQUEST && type !== FRAME_RESPONSE && type !== FRAME_DATA) {
    throw new HearthError("invalid-argument", `decode ttrpc frame: unknown message type ${type}`);
  }
  return { length: view.getUint32(0), streamId: view.getUint32(4), type, flags: view.getUint8(9) };
}
