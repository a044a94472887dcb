/** What was measured: printed as it comes, kept as JSON, the rows of parts that were not run now included. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { REPOSITORY } from "../scripts/step.ts";
import type { Samples } from "./measure.ts";

const PATH = join(REPOSITORY, "build/bench.json");

export interface Row {
  readonly part: string;
  readonly name: string;
  readonly value: number;
  readonly unit: "ms" | "s" | "MiB" | "MiB/s" | "1/s" | "% of a core" | "×";
  /** What it is a ratio to, and the ratio. */
  readonly ratios: Readonly<Record<string, number>>;
  readonly samples?: Samples;
}

type Ratios = Row["ratios"];

export class Report {
  readonly #part: string;
  readonly rows: Row[] = [];

  constructor(part: string) {
    this.#part = part;
  }

  record(name: string, value: number, unit: Row["unit"], ratios: Ratios = {}, samples?: Samples): void {
    this.rows.push({ part: this.#part, name, value, unit, ratios, ...(samples === undefined ? {} : { samples }) });
    const compared = Object.entries(ratios).map(([to, ratio]) => `${ratio.toFixed(3)} of ${to}`);
    process.stdout.write(`${name.padEnd(60)} ${value.toFixed(1).padStart(9)} ${unit}   ${compared.join(", ")}\n`);
  }

  memory(name: string, mib: number): void {
    this.record(name, mib, "MiB");
  }

  /** Returns the median, in milliseconds. */
  time(name: string, samples: Samples, ratios: Ratios = {}): number {
    this.record(name, samples.median, "ms", ratios, samples);
    return samples.median;
  }
}

export function machine(): string {
  const [cpu] = cpus();
  return `${cpus().length} × ${cpu?.model.trim()}, emulation (TCG) unless /dev/kvm is usable`;
}

/** Rows of other parts, of earlier runs, stay. */
export function keep(rows: readonly Row[]): void {
  const parts = new Set(rows.map(({ part }) => part));
  const before = existsSync(PATH) ? (JSON.parse(readFileSync(PATH, "utf8")) as { rows: Row[] }).rows : [];
  const all = [...before.filter(({ part }) => !parts.has(part)), ...rows];
  mkdirSync(join(REPOSITORY, "build"), { recursive: true });
  writeFileSync(PATH, `${JSON.stringify({ machine: machine(), rows: all }, null, 2)}\n`);
}
