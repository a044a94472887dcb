import { expect, test } from "bun:test";
import fc from "fast-check";
import { PlainNewlines } from "./plain-newlines.ts";

/** As a terminal that was not changed: every newline gets a return in front. Source: termios(3), ONLCR. */
const asTerminalSends = (text: string): Uint8Array => new TextEncoder().encode(text.replaceAll("\n", "\r\n"));

function through(bytes: Uint8Array, cuts: readonly number[]): string {
  const filter = new PlainNewlines();
  const parts: Uint8Array[] = [];
  let from = 0;
  for (const cut of [...cuts, bytes.length].toSorted((one, other) => one - other)) {
    parts.push(filter.push(bytes.subarray(from, cut)));
    from = cut;
  }
  parts.push(filter.end());
  return Buffer.concat(parts).toString("utf8");
}

test("what a process wrote comes out again, however it is cut", () => {
  const text = fc.array(fc.constantFrom("a", "\r", "\n", "\r\n", "é")).map((parts) => parts.join(""));
  fc.assert(
    fc.property(text, fc.array(fc.nat(40)), (written, places) => {
      const sent = asTerminalSends(written);
      const cuts = places.filter((place) => place <= sent.length);
      expect(through(sent, cuts)).toBe(written);
    }),
  );
});
