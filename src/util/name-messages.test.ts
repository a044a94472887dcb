import { expect, test } from "bun:test";
import fc from "fast-check";
import { framedName, NameMessages } from "./name-messages.ts";

async function messagesOf(bytes: Uint8Array, cuts: readonly number[]): Promise<Uint8Array[]> {
  const ends = [...new Set(cuts.map((cut) => cut % (bytes.length + 1))), bytes.length].toSorted((a, b) => a - b);
  const chunks = ends.map((end, index) => bytes.slice(ends[index - 1] ?? 0, end)).filter(({ length }) => length > 0);
  const messages = new NameMessages({ read: async () => chunks.shift() ?? null });
  const found: Uint8Array[] = [];
  for (let next = await messages.next(); next !== null; next = await messages.next()) found.push(next);
  return found;
}

test("messages are what was framed, however the stream is cut, and what is not whole is none", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ maxLength: 700 }), { maxLength: 4 }),
      fc.array(fc.nat(), { maxLength: 8 }),
      fc.uint8Array({ maxLength: 1 }),
      async (messages, cuts, rest) => {
        const bytes = Buffer.concat([...messages.map(framedName), rest]);
        const found = await messagesOf(new Uint8Array(bytes), cuts);
        expect(found.map((one) => [...one])).toEqual(messages.map((one) => [...one]));
      },
    ),
  );
});
