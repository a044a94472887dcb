/** Sampling: a warm-up that is not counted, then medians; and times of whole processes. */

/** Milliseconds after which a VM that has become idle has given back the memory that it needs no more. */
export const TRIMMED_MS = 2000;

export interface Samples {
  readonly median: number;
  readonly p99: number;
  readonly count: number;
}

/** Of at least one value, by nearest rank: p99 of fewer than a hundred is the largest. */
export function summarize(values: readonly number[]): Samples {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number): number => sorted[Math.ceil(sorted.length * share) - 1] ?? Number.NaN;
  return { median: at(0.5), p99: at(0.99), count: sorted.length };
}

/** Runs `once`, which returns its own milliseconds, one time for warming up and then `count` times. */
export async function sample(count: number, once: () => Promise<number>): Promise<Samples> {
  await once();
  const values: number[] = [];
  for (let index = 0; index < count; index++) values.push(await once());
  return summarize(values);
}

export interface Launch {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly argv0?: string;
}

/** Milliseconds from the start of the process to its first byte of output; waits for its end, which must be 0. */
export async function firstOutput({ argv, env, argv0 }: Launch): Promise<number> {
  const startedAt = performance.now();
  const child = Bun.spawn([...argv], {
    env: { ...env },
    stdio: ["ignore", "pipe", "pipe"],
    ...(argv0 === undefined ? {} : { argv0 }),
  });
  let first: number | undefined;
  for await (const _chunk of child.stdout) first ??= performance.now() - startedAt;
  await expectSuccess(child, argv);
  if (first === undefined) throw new Error(`${argv.join(" ")}: no output`);
  return first;
}

/** Milliseconds of the whole process, which must end with 0. Its standard streams are /dev/null. */
export async function wholeProcess({ argv, env, argv0 }: Launch): Promise<number> {
  const startedAt = performance.now();
  const child = Bun.spawn([...argv], {
    env: { ...env },
    stdio: ["ignore", "ignore", "ignore"],
    ...(argv0 === undefined ? {} : { argv0 }),
  });
  const status = await child.exited;
  if (status !== 0) throw new Error(`${argv.join(" ")}: status ${status}`);
  return performance.now() - startedAt;
}

async function expectSuccess(child: Bun.Subprocess<"ignore", "pipe", "pipe">, argv: readonly string[]): Promise<void> {
  const status = await child.exited;
  if (status === 0) return;
  throw new Error(`${argv.join(" ")}: status ${status}\n${await new Response(child.stderr).text()}`);
}
