/** Counts and distributions, and their text for Prometheus. Source: its exposition formats, text format 0.0.4. */

export const PROMETHEUS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";

export type Labels = Readonly<Record<string, string>>;

export interface Sample {
  /** Added to the family's name. */
  readonly suffix?: "_bucket" | "_sum" | "_count";
  readonly labels: Labels;
  readonly value: number;
}

export interface Family {
  readonly name: string;
  readonly type: "counter" | "gauge" | "histogram";
  readonly help: string;
  readonly samples: readonly Sample[];
}

/** A family without samples is left out. */
export function formatFamilies(families: readonly Family[]): string {
  return families
    .filter(({ samples }) => samples.length > 0)
    .map(({ name, type, help, samples }) => {
      const head = [`# HELP ${name} ${escapeHelp(help)}`, `# TYPE ${name} ${type}`];
      return [...head, ...samples.map((sample) => formatSample(name, sample)), ""].join("\n");
    })
    .join("");
}

function formatSample(name: string, { suffix, labels, value }: Sample): string {
  const pairs = Object.entries(labels).map(([key, text]) => `${key}="${escapeLabel(text)}"`);
  return `${name}${suffix ?? ""}${pairs.length === 0 ? "" : `{${pairs.join(",")}}`} ${formatValue(value)}`;
}

function formatValue(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return "+Inf";
  return value === Number.NEGATIVE_INFINITY ? "-Inf" : String(value);
}

function escapeHelp(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}

function escapeLabel(text: string): string {
  return escapeHelp(text).replaceAll('"', '\\"');
}

/** A value for each set of labels that was seen. */
export class Counter {
  readonly #values = new Map<string, { readonly labels: Labels; value: number }>();

  increment(labels: Labels = {}): void {
    const key = JSON.stringify(labels);
    const known = this.#values.get(key);
    if (known === undefined) this.#values.set(key, { labels, value: 1 });
    else known.value += 1;
  }

  get samples(): Sample[] {
    return [...this.#values.values()].map(({ labels, value }) => ({ labels, value }));
  }
}

interface Distribution {
  readonly labels: Labels;
  /** How many fell into each bucket, those of the buckets below not counted; the last is for what is above all bounds. */
  readonly counts: number[];
  sum: number;
}

/** A distribution for each set of labels that was seen. */
export class Histogram {
  /** Ascending. */
  readonly #bounds: readonly number[];
  readonly #distributions = new Map<string, Distribution>();

  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
  }

  observe(value: number, labels: Labels = {}): void {
    const key = JSON.stringify(labels);
    let distribution = this.#distributions.get(key);
    if (distribution === undefined) {
      distribution = { labels, counts: new Array<number>(this.#bounds.length + 1).fill(0), sum: 0 };
      this.#distributions.set(key, distribution);
    }
    const found = this.#bounds.findIndex((bound) => value <= bound);
    const bucket = found < 0 ? this.#bounds.length : found;
    distribution.counts[bucket] = (distribution.counts[bucket] ?? 0) + 1;
    distribution.sum += value;
  }

  get samples(): Sample[] {
    return [...this.#distributions.values()].flatMap(({ labels, counts, sum }) => {
      let total = 0;
      const buckets = [...this.#bounds, Number.POSITIVE_INFINITY].map((bound, index): Sample => {
        total += counts[index] ?? 0;
        return { suffix: "_bucket", labels: { ...labels, le: formatValue(bound) }, value: total };
      });
      return [...buckets, { suffix: "_sum", labels, value: sum }, { suffix: "_count", labels, value: total }];
    });
  }
}
