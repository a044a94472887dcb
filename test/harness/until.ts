/** Waiting for what an engine does some time after it was told to, and tells nobody about. */

/** More than an emulated guest needs for anything, a boot on a busy machine included. */
const TIMEOUT_MS = 90_000;
const LOOK_INTERVAL_MS = 50;

/** Looks again and again until what is seen is as wanted, and returns it; fails with what was seen last. */
export async function until<T>(look: () => Promise<T>, isWanted: (seen: T) => boolean): Promise<T> {
  const deadline = performance.now() + TIMEOUT_MS;
  for (;;) {
    const seen = await look();
    if (isWanted(seen)) return seen;
    if (performance.now() > deadline) throw new Error(`not as wanted in time: ${JSON.stringify(seen)}`);
    await Bun.sleep(LOOK_INTERVAL_MS);
  }
}
