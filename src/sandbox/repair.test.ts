import { expect, test } from "bun:test";
import { CLOCK_ATTEMPTS_MAX } from "../limits.ts";
import type { AgentCalls } from "../rpc/protocols.ts";
import { setGuestClock } from "./repair.ts";

const EPOCH_MS = 1_800_000_000_000;

/** A guest whose clock is set so long after a call began, and the call ends so long after that. Milliseconds. */
class SlowGuest {
  calls = 0;
  /** How much its clock is ahead of the host's. */
  errorMs = Number.NaN;
  readonly #trips: readonly (readonly [there: number, back: number])[];
  #hostMs = 0;

  /** The last trip is that of all further calls too. */
  constructor(...trips: readonly (readonly [there: number, back: number])[]) {
    this.#trips = trips;
  }

  async setClock(): Promise<void> {
    const setGuestDateTime: AgentCalls["setGuestDateTime"] = async ({ Sec = 0n, Usec = 0n }) => {
      const [there, back] = this.#trips[Math.min(this.calls++, this.#trips.length - 1)] ?? [0, 0];
      this.#hostMs += there;
      this.errorMs = Number(Sec) * 1000 + Number(Usec) / 1000 - (EPOCH_MS + this.#hostMs);
      this.#hostMs += back;
      return { $typeName: "google.protobuf.Empty" };
    };
    const agent: Partial<AgentCalls> = { setGuestDateTime };
    const clock = { now: () => EPOCH_MS + this.#hostMs, sinceBoot: () => this.#hostMs };
    await setGuestClock({ agent: agent as AgentCalls }, new AbortController().signal, clock);
  }
}

test.each<[string, [number, number][], number, number]>([
  ["quick: at once", [[3, 4]], 1, -3],
  [
    "slept through: once more, and not as a slow one",
    [
      [60_000, 1],
      [2, 3],
    ],
    2,
    -2,
  ],
  ["all slow: by the middle of one", [[40, 35]], 2, -2.5],
  ["none good enough: the last is as good as it gets", [[300, 200]], CLOCK_ATTEMPTS_MAX, -50],
])("calls that are %s", async (_, trips, calls, errorMs) => {
  const guest = new SlowGuest(...trips);
  await guest.setClock();
  expect(guest).toMatchObject({ calls, errorMs });
});
