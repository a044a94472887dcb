/** A page of metrics, fetched and read by somebody else's parser. */
import { join } from "node:path";
import { mustRunProgram } from "./program.ts";

const PARSER = join(import.meta.dir, "../fixtures/parse-metrics.py");

export interface ParsedFamily {
  /** Without the "_total" of a counter. */
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly samples: readonly {
    readonly name: string;
    readonly labels: Readonly<Record<string, string>>;
    /** As Python writes a number. */
    readonly value: string;
  }[];
}

/** Fails when the page is not what Prometheus reads. */
export async function parseMetrics(text: string): Promise<ParsedFamily[]> {
  return JSON.parse((await mustRunProgram(["/usr/bin/python3", "-B", PARSER], { stdin: text })).stdout);
}

/** The value of the sample with exactly these labels; undefined when there is none. */
export function sampleValue(
  families: readonly ParsedFamily[],
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const wanted = JSON.stringify(Object.entries(labels).sort());
  const samples = families.flatMap((family) => family.samples).filter((sample) => sample.name === name);
  const found = samples.find((sample) => JSON.stringify(Object.entries(sample.labels).sort()) === wanted);
  return found === undefined ? undefined : Number(found.value);
}
