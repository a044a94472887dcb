import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { decodeAttributes, decodeMessages, encodeMessage, errorOf, u32, withAttributes } from "./netlink-message.ts";

const bytes = (max: number) => fc.uint8Array({ maxLength: max });

describe("messages", () => {
  test("any messages survive one datagram", () => {
    const message = fc.record({ type: fc.nat(0xffff), flags: fc.nat(0xffff), sequence: fc.nat(), payload: bytes(40) });
    fc.assert(
      fc.property(fc.array(message, { maxLength: 4 }), (messages) => {
        const padded = messages.map((each) => {
          const one = encodeMessage(each);
          return Buffer.concat([one, new Uint8Array((4 - (one.length % 4)) % 4)]);
        });
        const decoded = decodeMessages(Buffer.concat(padded));
        expect(decoded.map((each) => ({ ...each, payload: [...each.payload] }))).toEqual(
          messages.map((each) => ({ ...each, payload: [...each.payload] })),
        );
      }),
    );
  });

  test("random bytes end in a result or an error, never in a loop", () => {
    fc.assert(
      fc.property(bytes(200), (datagram) => {
        try {
          for (const { payload } of decodeMessages(datagram)) decodeAttributes(payload, 0);
        } catch (thrown) {
          expect(String(thrown)).toContain("decode netlink");
        }
      }),
    );
  });

  test("errors carry errno, acknowledgements none", () => {
    const failure = { type: 2, flags: 0, sequence: 1, payload: u32(-17) };
    expect(errorOf(failure, "add x")).toMatchObject({ errno: "EEXIST", message: "add x: EEXIST" });
    expect(errorOf({ ...failure, payload: u32(0) }, "add x")).toBeUndefined();
  });
});

test("attributes are padded and found again", () => {
  const payload = withAttributes(new Uint8Array(6), [
    [1, Uint8Array.of(1, 2, 3)],
    [2, undefined],
    [0x8003, Uint8Array.of(4)],
  ]);
  expect(payload.length).toBe(8 + 8 + 8);
  const attributes = decodeAttributes(payload, 8);
  expect([...attributes.keys()]).toEqual([1, 3]);
  expect([...(attributes.get(1) ?? [])]).toEqual([1, 2, 3]);
});
