/**
 * How much of QEMU's own throughput reaches a container: by turns in a guest with nothing of ours in it and in a container,
 * and what the container's standard streams carry.
 */
import { openHearth } from "../test/harness/hearth.ts";
import type { Report } from "./report.ts";
import { STREAM_MIB, speedOfInput, speedOfOutput, speedThroughCat } from "./streams.ts";
import { bareQemu, container, FILE_MIB, type SharedFs, type Subject } from "./subjects.ts";
import { speedToGuest, speedToHost } from "./wire.ts";

const ROUNDS = 5;
const SHARED: readonly SharedFs[] = ["virtio-fs", "virtio-9p"];
const BUSYBOX = "/bin/busybox";

type Measure = (subject: Subject) => Promise<number>;

export async function measureThroughput(report: Report): Promise<void> {
  const opened = openHearth({ config: { runtime: { log_level: "warn" } } });
  const { hearth } = opened;
  try {
    for (const sharedFs of SHARED) {
      await using stack = new AsyncDisposableStack();
      const subjects = [await bareQemu(stack, sharedFs), await container(stack, hearth, sharedFs)] as const;
      await byTurns(report, `file read over ${sharedFs}, page cache dropped`, subjects, readFile);
      await byTurns(report, `file written over ${sharedFs} and flushed`, subjects, writeFile);
      if (sharedFs !== SHARED[0]) continue;
      await byTurns(report, "TCP from container to host", subjects, ({ wire, run }) => speedToHost(wire, run));
      await byTurns(report, "TCP from host to container", subjects, ({ wire, run }) => speedToGuest(wire, run));
    }
    const streams = [
      ["standard output", speedOfOutput],
      ["standard input", speedOfInput],
      ["standard input, cat and standard output", speedThroughCat],
    ] as const;
    for (const [name, once] of streams) {
      const values = await rounds(() => once(hearth));
      report.record(`${STREAM_MIB} MiB through ${name}`, median(values), "MiB/s");
    }
  } catch (thrown) {
    process.stderr.write(opened.describe());
    throw thrown;
  } finally {
    await opened.close();
  }
}

/** The ratio is the median of those of the rounds: what else the machine does at the time concerns both of a round. */
async function byTurns(
  report: Report,
  name: string,
  [bare, ours]: readonly [Subject, Subject],
  measure: Measure,
): Promise<void> {
  const pairs = await rounds(async () => [await measure(bare), await measure(ours)] as const);
  const value = median(pairs.map(([, mine]) => mine));
  report.record(name, value, "MiB/s", { "bare QEMU": median(pairs.map(([its, mine]) => mine / its)) });
}

/** ROUNDS of them after one that does not count. */
async function rounds<T>(once: () => Promise<T>): Promise<T[]> {
  await once();
  const values: T[] = [];
  for (let round = 0; round < ROUNDS; round++) values.push(await once());
  return values;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

const readFile: Measure = async (subject) => {
  await subject.run("echo 3 >/proc/sys/vm/drop_caches");
  return await speedOf(subject, `${BUSYBOX} dd if=${subject.dir}/file of=/dev/null bs=1M`);
};

const writeFile: Measure = async (subject) => {
  const { dir } = subject;
  const write = `${BUSYBOX} dd if=/dev/zero of=${dir}/new bs=1M count=${FILE_MIB} conv=fsync`;
  const speed = await speedOf(subject, write);
  await subject.run(`${BUSYBOX} rm ${dir}/new`);
  return speed;
};

/** Nanoseconds of the guest's clock: no tool of busybox tells less than hundredths of a second. */
const CLOCK = `${BUSYBOX} grep -m 1 '^now at ' /proc/timer_list`;

/** MiB a second by the guest's watch: what the way of a command into the guest takes does not count. */
async function speedOf({ run }: Subject, copy: string): Promise<number> {
  const said = await run(`${CLOCK} && ${copy} 2>/dev/null && ${CLOCK}`);
  const [from, to] = [...said.matchAll(/^now at (\d+) nsecs/gm)].map((match) => Number(match[1]));
  if (from === undefined || to === undefined) throw new Error(`${copy}: ${said}`);
  return FILE_MIB / ((to - from) / 1e9);
}
