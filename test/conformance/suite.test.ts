/** The conformance suite: every case on runc and on Hearth, on this machine. */
import { expect, test } from "bun:test";
import { registerCold } from "./register.ts";
import { TOPICS } from "./topics.ts";

const CASES_MIN = 150;

registerCold();

test(`there are at least ${CASES_MIN} cases, each with a name of its own`, () => {
  const names = TOPICS.flatMap(({ topic, cases }) => cases.map(({ name }) => `${topic}: ${name}`));
  expect(names.length).toBeGreaterThanOrEqual(CASES_MIN);
  expect(new Set(names).size).toBe(names.length);
});
