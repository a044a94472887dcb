/**
 * The conformance suite: every case on runc and on Hearth, on this machine. A case that runc does not pass either is
 * wrong, unless it says why; one that says so and passes is wrong too.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { type OpenHearth, openHearth } from "../harness/hearth.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";
import { testUnless } from "../harness/skip.ts";
import type { Case } from "./case.ts";
import { perform, type Subject } from "./perform.ts";
import { hearthSubject, runcSubject, startPod, stopPod } from "./subjects.ts";
import { TOPICS } from "./topics.ts";

const CASES_MIN = 150;
const CASE_TIMEOUT_MS = 120_000;
const needsRunc = Bun.which("runc") === null ? "runc is missing" : undefined;

let opened: OpenHearth;
let runcDir: Scratch;
let runc: Subject;
let ours: Subject;
let count = 0;

beforeAll(async () => {
  runcDir = scratch();
  opened = openHearth();
  runc = runcSubject(runcDir.dir);
  ours = hearthSubject(opened.hearth);
  for (const dir of [runcDir.dir, opened.hearth.dir]) makePassable(dir);
  await startPod(opened.hearth);
}, CASE_TIMEOUT_MS);

afterAll(async () => {
  await stopPod(opened.hearth);
  runcDir[Symbol.dispose]();
  await opened.close();
}, CASE_TIMEOUT_MS);

/** A container in a user namespace of runc has to come to its root as nobody in particular. */
function makePassable(dir: string): void {
  for (let at = dir; at !== dirname(at); at = dirname(at)) {
    const { mode } = statSync(at);
    if ((mode & 0o005) !== 0o005) chmodSync(at, mode | 0o005);
  }
}

async function performOnBoth(given: Case): Promise<void> {
  const id = `case-${++count}`;
  const theirs = await perform(given, runc, runcDir.path(id), id);
  if (given.runcFails === undefined) expect([runc.name, theirs]).toEqual([runc.name, undefined]);
  else expect(theirs).toBeDefined();
  const wrong = await perform(given, ours, join(opened.hearth.dir, id), id);
  if (wrong !== undefined) process.stderr.write(opened.describe());
  expect([ours.name, wrong]).toEqual([ours.name, undefined]);
}

for (const { topic, cases } of TOPICS) {
  describe(topic, () => {
    for (const given of cases) {
      testUnless(needsRunc)(`${given.name} (${given.spec})`, () => performOnBoth(given), CASE_TIMEOUT_MS);
    }
  });
}

test(`there are at least ${CASES_MIN} cases, each with a name of its own`, () => {
  const names = TOPICS.flatMap(({ topic, cases }) => cases.map(({ name }) => `${topic}: ${name}`));
  expect(names.length).toBeGreaterThanOrEqual(CASES_MIN);
  expect(new Set(names).size).toBe(names.length);
});
