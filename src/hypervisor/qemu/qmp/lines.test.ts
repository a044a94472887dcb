import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { LineSplitter } from "./lines.ts";

const encode = (text: string): Uint8Array => new TextEncoder().encode(text);

describe("LineSplitter", () => {
  test("gives back the lines however they are cut", () => {
    const line = fc.string({ unit: "grapheme" }).map((text) => text.replaceAll(/[\r\n]/g, " "));
    fc.assert(
      fc.property(fc.array(line), fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1 }), (lines, sizes) => {
        const bytes = encode(lines.map((text) => `${text}\n`).join(""));
        const splitter = new LineSplitter(10_000);
        const found: string[] = [];
        for (let at = 0, turn = 0; at < bytes.length; turn++) {
          const size = sizes[turn % sizes.length] ?? 1;
          found.push(...splitter.push(bytes.subarray(at, at + size)));
          at += size;
        }
        expect(found).toEqual(lines);
        expect(splitter.pendingBytes).toBe(0);
      }),
    );
  });

  test("a chunk's memory may be used again", () => {
    const splitter = new LineSplitter(100);
    const chunk = encode("abc");
    splitter.push(chunk);
    chunk.fill(0x78);
    expect(splitter.push(encode("\r\n"))).toEqual(["abc"]);
  });

  test.each([
    [["12345678\n"], true],
    [["123456789\n"], false],
    [["1234", "5678", "9"], false],
    [["1234", "5678", "\n1234567"], true],
  ])("%p within 8 bytes a line: %p", (chunks, fits) => {
    const splitter = new LineSplitter(8);
    const feed = (): void => {
      for (const chunk of chunks) splitter.push(encode(chunk));
    };
    if (fits) feed();
    else expect(feed).toThrow("longer than 8 bytes");
  });
});
