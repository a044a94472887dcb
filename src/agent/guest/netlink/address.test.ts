import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { formatIp, formatMac, parseIp, parseMac, parsePrefix } from "./address.ts";

describe("IP addresses", () => {
  test.each([
    ["10.0.0.1", [10, 0, 0, 1]],
    ["::", new Array(16).fill(0)],
    ["::1", [...new Array(15).fill(0), 1]],
    ["fe80::1:2", [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]],
    ["::ffff:1.2.3.4", [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 1, 2, 3, 4]],
    ["1::", [0, 1, ...new Array(14).fill(0)]],
  ])("%s is parsed", (text, bytes) => {
    expect([...parseIp(text).bytes]).toEqual(bytes);
  });

  test.each(["", "1.2.3", "1.2.3.256", "fe80::1%eth0", ":::", "example.org", "1.2.3.4/8"])("%p is refused", (text) => {
    expect(() => parseIp(text)).toThrow("parse IP address");
  });

  // Source: RFC 5952, section 4.
  test.each(["2001:db8::1", "2001:db8:0:1:1:1:1:1", "2001:0:0:1::1", "::", "::1", "fe80::", "1:2:3:4:5:6:7:8"])(
    "%s is canonical",
    (text) => {
      expect(formatIp(parseIp(text).bytes)).toBe(text);
    },
  );

  test("any bytes survive text", () => {
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ minLength: 4, maxLength: 4 }), sparse16()), (bytes) => {
        expect([...parseIp(formatIp(bytes)).bytes]).toEqual([...bytes]);
      }),
    );
  });
});

/** Sixteen bytes with runs of zeros. */
function sparse16(): fc.Arbitrary<Uint8Array> {
  const group = fc.oneof(fc.constant([0, 0]), fc.tuple(fc.nat(255), fc.nat(255)));
  return fc.array(group, { minLength: 8, maxLength: 8 }).map((groups) => Uint8Array.from(groups.flat()));
}

test("prefixes", () => {
  expect(parsePrefix("10.1.0.0/16")).toMatchObject({ family: "v4", prefixLength: 16 });
  expect(parsePrefix("fe80::1")).toMatchObject({ family: "v6", prefixLength: 128 });
  for (const bad of ["10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/1e1"]) {
    expect(() => parsePrefix(bad)).toThrow("parse prefix length");
  }
});

test("hardware addresses", () => {
  expect(formatMac(parseMac("52:54:00:AB:cd:0f"))).toBe("52:54:00:ab:cd:0f");
  for (const bad of ["", "52:54:00:ab:cd", "52-54-00-ab-cd-0f", "52:54:00:ab:cd:0g"]) {
    expect(() => parseMac(bad)).toThrow("parse hardware address");
  }
});
