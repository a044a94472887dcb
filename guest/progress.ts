/** Progress of the guest build: one line a step, with the seconds since the build began. */

export type Progress = (step: string) => void;

/** Lines look like `guest    1.2 s  make image`. Written whole, one at a time. */
export function printProgress(write: (line: string) => void, now: () => number = () => performance.now()): Progress {
  const start = now();
  return (step) => write(`guest ${((now() - start) / 1000).toFixed(1).padStart(6)} s  ${step}\n`);
}
