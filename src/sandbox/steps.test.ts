import { expect, test } from "bun:test";
import { DeadlineError } from "../errors.ts";
import { createSteps, stretchOf } from "./steps.ts";

const ignore = (): void => undefined;
const never = (signal: AbortSignal): Promise<never> =>
  new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason)));

test.each([
  [1_000, 1],
  [60_000, 1],
  [90_000, 1.5],
  [600_000, 10],
])("a boot time of %d ms stretches deadlines by %d", (bootTimeoutMs, expected) => {
  expect(stretchOf(bootTimeoutMs)).toBe(expected);
});

test("the deadline that is told is the stretched one", async () => {
  const steps = createSteps({ onStep: ignore, stretch: 3 });
  const thrown = await steps.run("repair", 7, never).catch((error: unknown) => error);
  expect(thrown).toBeInstanceOf(DeadlineError);
  expect(thrown).toMatchObject({ step: "repair", message: expect.stringContaining("within 21 ms") });
});

test("without a stretch it is as it was given, and no stretch goes beyond the most", async () => {
  const plain = await createSteps({ onStep: ignore })
    .run("repair", 7, never)
    .catch((error: unknown) => error);
  expect(plain).toMatchObject({ message: expect.stringContaining("within 7 ms") });
  const steps = createSteps({ onStep: ignore, stretch: 1e9 });
  expect(await steps.run("repair", 60_000, async (signal) => signal.aborted)).toBe(false);
});
