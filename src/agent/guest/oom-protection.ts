/**
 * Keeps the kernel's OOM killer from the agent, which would otherwise be a better victim than a container that an engine
 * gave a low score. Children inherit the protection, and crun cannot take it off: it takes a score of 0 for none.
 */
import { writeFileSync } from "node:fs";
import { toHearthError } from "../../errors.ts";

const SCORE_FILE = "/proc/self/oom_score_adj";
/** Below everything that Kubernetes gives. -1000 would exempt children too, should one inherit it. */
const AGENT_SCORE = -999;
const DEFAULT_SCORE = 0;

/** Protects this process. Returns how to start a child without the protection: the child is born with the score then set. */
export function protectFromOomKiller(): <T>(start: () => T) => T {
  setScore(AGENT_SCORE);
  return (start) => {
    setScore(DEFAULT_SCORE);
    try {
      return start();
    } finally {
      setScore(AGENT_SCORE);
    }
  };
}

function setScore(score: number): void {
  try {
    writeFileSync(SCORE_FILE, String(score));
  } catch (thrown) {
    throw toHearthError(thrown, `set OOM score to ${score}`);
  }
}
