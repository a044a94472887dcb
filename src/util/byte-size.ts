/** Sizes as people and engines write them: "1048576", "64m", "1.5GiB"; each unit is 1024 of the one before. */
const UNITS = ["k", "m", "g", "t", "p"];

/** Bytes; undefined for what is no size. -1 is "no limit". Source: docker/go-units, RAMInBytes. */
export function byteSize(text: string): bigint | undefined {
  if (/^-?\d{1,19}$/.test(text)) return BigInt(text);
  const [, number, unit] = /^(\d{1,15}(?:\.\d{1,9})?) ?([kmgtp])?(?:i?b)?$/i.exec(text) ?? [];
  if (number === undefined) return undefined;
  const power = unit === undefined ? 0 : UNITS.indexOf(unit.toLowerCase()) + 1;
  return BigInt(Math.trunc(Number(number) * 1024 ** power));
}
