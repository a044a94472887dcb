/** Looking again and again at what tells nobody of its changes: files, /proc, a server's status. */

const LOOK_INTERVAL_MS = 20;
const TIMEOUT_MS = 30_000;

/** What `look` finds once it is not undefined, with pauses between two looks; fails, naming what was waited for, when it takes too long. */
export async function eventually<T>(
  what: string,
  look: () => T | undefined | Promise<T | undefined>,
  timeoutMs = TIMEOUT_MS,
  pauseMs = LOOK_INTERVAL_MS,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > deadline) throw new Error(`waited too long for ${what}`);
    await Bun.sleep(pauseMs);
  }
}
