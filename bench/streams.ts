/** How fast bytes go through the standard streams of a container, from and to a program on the host. */
import type { Hearth } from "../test/harness/hearth.ts";
import { PATH } from "../test/harness/program.ts";

export const STREAM_MIB = 100;
const BYTES = STREAM_MIB << 20;
const CHUNK = new Uint8Array(256 * 1024);

let runs = 0;

/** MiB a second from the first byte to the last. */
export async function speedOfOutput(hearth: Hearth): Promise<number> {
  const bundle = await hearth.bundle({ args: ["dd", "if=/dev/zero", "bs=1M", `count=${STREAM_MIB}`] });
  using child = start(hearth, bundle);
  const { firstAt, lastAt } = await readAll(child.process.stdout, BYTES);
  await child.end();
  return speed(firstAt, lastAt);
}

/** MiB a second from the first byte that is written until the container says that it has read the last. */
export async function speedOfInput(hearth: Hearth): Promise<number> {
  const bundle = await hearth.bundle({ args: ["sh", "-c", "echo ready; cat >/dev/null; echo done"] });
  using child = start(hearth, bundle);
  const output = child.process.stdout[Symbol.asyncIterator]();
  await output.next();
  const startedAt = performance.now();
  await writeAll(child.process.stdin);
  await output.next();
  const endedAt = performance.now();
  await child.end();
  return speed(startedAt, endedAt);
}

/** MiB a second through `cat`, in and out at once. */
export async function speedThroughCat(hearth: Hearth): Promise<number> {
  const bundle = await hearth.bundle({ args: ["sh", "-c", "echo ready; exec cat"] });
  using child = start(hearth, bundle);
  const greeting = "ready\n".length;
  const { promise: started, resolve: markStarted } = Promise.withResolvers<void>();
  const reading = readAll(child.process.stdout, BYTES + greeting, markStarted);
  await started;
  const [{ firstAt, lastAt }] = await Promise.all([reading, writeAll(child.process.stdin)]);
  await child.end();
  return speed(firstAt, lastAt);
}

const speed = (from: number, to: number): number => STREAM_MIB / ((to - from) / 1000);

interface Started extends Disposable {
  readonly process: Bun.Subprocess<"pipe", "pipe", "ignore">;
  /** Its status must be 0. */
  end(): Promise<void>;
}

function start(hearth: Hearth, bundle: string): Started {
  const child = Bun.spawn([hearth.runtimePath, "run", "--bundle", bundle, `bench-streams-${process.pid}-${++runs}`], {
    argv0: "hearth-runtime",
    env: { PATH, ...hearth.env },
    stdio: ["pipe", "pipe", "ignore"],
  });
  return {
    process: child,
    end: async () => {
      await child.stdin.end();
      const status = await child.exited;
      if (status !== 0) throw new Error(`container of ${bundle}: status ${status}`);
    },
    [Symbol.dispose]: () => child.kill(),
  };
}

async function readAll(
  stream: ReadableStream<Uint8Array>,
  wanted: number,
  onFirst: () => void = () => undefined,
): Promise<{ readonly firstAt: number; readonly lastAt: number }> {
  let bytes = 0;
  let firstAt = 0;
  for await (const chunk of stream) {
    if (bytes === 0) {
      firstAt = performance.now();
      onFirst();
    }
    bytes += chunk.length;
  }
  if (bytes !== wanted) throw new Error(`${bytes} bytes of output, not ${wanted}`);
  return { firstAt, lastAt: performance.now() };
}

async function writeAll(stdin: Bun.FileSink): Promise<void> {
  for (let left = BYTES; left > 0; left -= CHUNK.length) {
    void stdin.write(CHUNK);
    await stdin.flush();
  }
  await stdin.end();
}
