import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { HearthError } from "../../errors.ts";
import { TTRPC_MESSAGE_BYTES_MAX } from "../../limits.ts";
import {
  encodeFrame,
  encodeFramePieces,
  FRAME_HEADER_BYTES,
  type Frame,
  FrameDecoder,
  type FrameType,
  STREAM_ID_MAX,
} from "./frame.ts";

const frameArbitrary = fc.record({
  streamId: fc.integer({ min: 0, max: STREAM_ID_MAX }),
  type: fc.constantFrom<FrameType>(1, 2, 3),
  flags: fc.integer({ min: 0, max: 255 }),
  payload: fc.uint8Array({ maxLength: 300 }),
});

function encodeAll(frames: readonly Frame[]): Uint8Array {
  return new Uint8Array(
    Buffer.concat(frames.map((f) => encodeFrame(f.streamId, f.type, f.flags, f.payload ?? new Uint8Array()))),
  );
}

/** Cuts at the given places, which need not be sorted or inside. */
function cut(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const sorted = [0, ...places.map((place) => place % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
  return sorted.slice(1).map((end, index) => bytes.subarray(sorted[index], end));
}

describe("ttrpc frames", () => {
  test("a known frame", () => {
    expect([...encodeFrame(0x01020304, 1, 5, new Uint8Array([9, 8]))]).toEqual([0, 0, 0, 2, 1, 2, 3, 4, 1, 5, 9, 8]);
  });

  test("in pieces it is the same, and a large body is one of them", () => {
    const head = new Uint8Array([1, 2, 3]);
    for (const size of [0, 100, 16 * 1024 - 1, 16 * 1024, 100_000]) {
      const body = crypto.getRandomValues(new Uint8Array(Math.min(size, 65_536)));
      const pieces = encodeFramePieces(7, 2, head, body);
      const whole = encodeFrame(7, 2, 0, Buffer.concat([head, body]));
      expect(Buffer.concat(pieces).equals(whole)).toBe(true);
      expect(pieces.includes(body)).toBe(size >= 16 * 1024);
    }
  });

  test("round trip under any chunking", () => {
    fc.assert(
      fc.property(fc.array(frameArbitrary, { maxLength: 8 }), fc.array(fc.nat(), { maxLength: 40 }), (frames, cuts) => {
        const decoder = new FrameDecoder();
        const decoded = cut(encodeAll(frames), cuts).flatMap((chunk) => decoder.push(chunk));
        expect(decoded).toEqual(frames);
        expect(decoder.atBoundary).toBe(true);
      }),
    );
  });

  test("a truncated stream gives the whole frames and is not at a boundary", () => {
    fc.assert(
      fc.property(fc.array(frameArbitrary, { minLength: 1, maxLength: 4 }), fc.nat(), (frames, place) => {
        const bytes = encodeAll(frames);
        const length = place % bytes.length;
        const decoder = new FrameDecoder();
        const decoded = decoder.push(bytes.subarray(0, length));
        expect(decoded).toEqual(frames.slice(0, decoded.length));
        const used = decoded.reduce((sum, frame) => sum + FRAME_HEADER_BYTES + (frame.payload?.length ?? 0), 0);
        expect(decoder.atBoundary).toBe(used === length);
      }),
    );
  });

  test("random bytes give frames or one clean error", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2000 }), (bytes) => {
        try {
          new FrameDecoder().push(bytes);
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(HearthError);
        }
      }),
    );
  });

  test("a message of exactly the limit passes, one byte more is refused by the encoder", () => {
    const largest = new Uint8Array(TTRPC_MESSAGE_BYTES_MAX).fill(7);
    const [frame] = new FrameDecoder().push(encodeFrame(1, 1, 0, largest));
    expect(frame?.payload?.length).toBe(TTRPC_MESSAGE_BYTES_MAX);
    expect(() => encodeFrame(1, 1, 0, new Uint8Array(TTRPC_MESSAGE_BYTES_MAX + 1))).toThrow("at most 4194304");
    expect(() => encodeFramePieces(1, 1, new Uint8Array(1), largest)).toThrow("at most 4194304");
  });

  test("a message over the limit is skipped and the next one is whole", () => {
    const decoder = new FrameDecoder();
    const header = new Uint8Array(FRAME_HEADER_BYTES);
    new DataView(header.buffer).setUint32(0, TTRPC_MESSAGE_BYTES_MAX + 5);
    header.set([0, 0, 0, 3, 1, 0], 4);
    expect(decoder.push(header)).toEqual([]);
    expect(decoder.push(new Uint8Array(TTRPC_MESSAGE_BYTES_MAX))).toEqual([]);
    const rest = new Uint8Array([...new Uint8Array(5), ...encodeFrame(5, 1, 0, new Uint8Array([1]))]);
    expect(decoder.push(rest)).toEqual([
      { streamId: 3, type: 1, flags: 0, payload: undefined },
      { streamId: 5, type: 1, flags: 0, payload: new Uint8Array([1]) },
    ]);
  });
});
