/** Durations as Go programs write them on a command line: "5s", "1m30s", "250ms". */
const UNITS_MS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};
const PART = /(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)/y;

/** Milliseconds; undefined for what is no such duration, or negative. Source: Go, time.ParseDuration. */
export function goDurationMs(text: string): number | undefined {
  if (text === "0") return 0;
  let total = 0;
  let at = 0;
  for (PART.lastIndex = 0; at < text.length; at = PART.lastIndex) {
    const [, number, unit = ""] = PART.exec(text) ?? [];
    if (number === undefined) return undefined;
    total += Number(number) * (UNITS_MS[unit] ?? Number.NaN);
  }
  return text === "" ? undefined : total;
}
