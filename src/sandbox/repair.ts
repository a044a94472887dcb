/**
 * What a VM needs before any workload: fresh random pool and the right time. One that was paused or cloned has neither,
 * and one just booted has its clock from the RTC, which counts whole seconds.
 */
import { randomBytes } from "node:crypto";
import type { AgentClient } from "../agent/client/client.ts";
import { CLOCK_ATTEMPTS_MAX, CLOCK_ERROR_MS_MAX, RESEED_BYTES } from "../limits.ts";
import { clockNanoseconds } from "../sys/clock.ts";

export async function repairGuest(agent: AgentClient, signal: AbortSignal): Promise<void> {
  await Promise.all([
    agent.agent.reseedRandomDev({ data: randomBytes(RESEED_BYTES) }, { signal }),
    setGuestClock(agent, signal),
  ]);
}

/**
 * The guest's clock is late by no more than the call that sets it takes: one that was slow, or that the host slept
 * through, is repeated.
 */
export async function setGuestClock(agent: AgentClient, signal: AbortSignal): Promise<void> {
  for (let attempt = 1; attempt <= CLOCK_ATTEMPTS_MAX; attempt++) {
    const startedAt = clockNanoseconds("boottime");
    const microseconds = BigInt(Date.now()) * 1000n;
    await agent.agent.setGuestDateTime({ Sec: microseconds / 1_000_000n, Usec: microseconds % 1_000_000n }, { signal });
    if (Number(clockNanoseconds("boottime") - startedAt) / 1e6 <= CLOCK_ERROR_MS_MAX) return;
  }
}
