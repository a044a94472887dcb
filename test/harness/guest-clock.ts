/** How far a guest's clock is from this machine's, as a process of a container tells it. */

/** Answers each line with the guest's time, after a first one unasked: the first thing a process of the container does. */
export const CLOCK_PROGRAM = ["sh", "-c", "echo $EPOCHREALTIME; while read line; do echo $EPOCHREALTIME; done"];
const PINGS = 20;

/** Milliseconds that the guest's clock is ahead: at least and at most, as well as the answers' delay allows to tell. */
export interface ClockError {
  readonly min: number;
  readonly max: number;
}

export interface ClockCommand {
  /** Runs CLOCK_PROGRAM in a container, with its own standard streams. */
  readonly argv: readonly string[];
  readonly argv0: string;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** Fails when the program says something else or ends with another status than 0. */
export async function clockError({ argv, argv0, env }: ClockCommand): Promise<ClockError> {
  await using child = Bun.spawn([...argv], { argv0, env, stdio: ["pipe", "pipe", "ignore"] });
  const reader = child.stdout.getReader();
  const read = async (): Promise<{ readonly guestMs: number; readonly atMs: number }> => {
    const { value } = await reader.read();
    const text = new TextDecoder().decode(value);
    const atMs = Date.now();
    if (!/^\d+\.\d{6}\n$/.test(text)) throw new Error(`the guest's time is ${JSON.stringify(text)}`);
    return { guestMs: Number(text) * 1000, atMs };
  };
  const startedAtMs = Date.now();
  const first = await read();
  let error = { min: first.guestMs - first.atMs, max: first.guestMs - startedAtMs };
  for (let ping = 0; ping < PINGS; ping++) {
    const askedAtMs = Date.now();
    child.stdin.write("\n");
    await child.stdin.flush();
    const { guestMs, atMs } = await read();
    error = { min: Math.max(error.min, guestMs - atMs), max: Math.min(error.max, guestMs - askedAtMs) };
  }
  child.stdin.end();
  await reader.cancel();
  const status = await child.exited;
  if (status !== 0) throw new Error(`the clock's program ended with status ${status}`);
  return error;
}

const CLOCK_ERROR_MS_MAX = 50;
/** Date.now() counts whole milliseconds, at both ends. */
const READING_ERROR_MS = 2;

/** Fails when the guest's clock is certainly more than `errorMsMax` from the host's. */
export function assertRightClock({ min, max }: ClockError, errorMsMax = CLOCK_ERROR_MS_MAX): void {
  const limit = errorMsMax + READING_ERROR_MS;
  if (min < limit && max > -limit) return;
  throw new Error(`the guest's clock is ${min} to ${max} ms ahead`);
}
