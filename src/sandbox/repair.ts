/**
 * What a VM needs before any workload: fresh random pool and the right time. One that was paused or cloned has neither,
 * and one just booted has its clock from the RTC, which counts whole seconds.
 */
import { randomBytes } from "node:crypto";
import type { AgentClient } from "../agent/client/client.ts";
import { CLOCK_ATTEMPTS_MAX, CLOCK_CALL_MS_MAX, CLOCK_ERROR_MS_MAX, RESEED_BYTES } from "../limits.ts";
import { clockNanoseconds } from "../sys/clock.ts";

export async function repairGuest(agent: AgentClient, signal: AbortSignal): Promise<void> {
  await Promise.all([
    agent.agent.reseedRandomDev({ data: randomBytes(RESEED_BYTES) }, { signal }),
    setGuestClock(agent, signal),
  ]);
}

/** What is read of the host's clocks. Milliseconds. */
export interface HostClock {
  /** Since 1970. */
  now(): number;
  /** Since boot, time asleep included. */
  sinceBoot(): number;
}

const HOST_CLOCK: HostClock = {
  now: Date.now,
  sinceBoot: () => Number(clockNanoseconds("boottime")) / 1e6,
};

/**
 * Sets the guest's clock to the host's. It is set at some moment of the call: as long as that leaves too much of an
 * error, because calls are slow or the host slept through one, it is set again, to the time in the middle of such a call.
 */
export async function setGuestClock(
  agent: Pick<AgentClient, "agent">,
  signal: AbortSignal,
  clock: HostClock = HOST_CLOCK,
): Promise<void> {
  let aheadMs = 0;
  for (let attempt = 1; attempt <= CLOCK_ATTEMPTS_MAX; attempt++) {
    const startedAt = clock.sinceBoot();
    const microseconds = BigInt(Math.round((clock.now() + aheadMs) * 1000));
    await agent.agent.setGuestDateTime({ Sec: microseconds / 1_000_000n, Usec: microseconds % 1_000_000n }, { signal });
    const tookMs = clock.sinceBoot() - startedAt;
    if (Math.max(aheadMs, tookMs - aheadMs) <= CLOCK_ERROR_MS_MAX) return;
    aheadMs = tookMs <= CLOCK_CALL_MS_MAX ? tookMs / 2 : 0;
  }
}
