import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { REPOSITORY } from "./step.ts";

const ROWS_MIN = 25;

test("each fault of docs/FAULTS.md has its test, in the file and of the name that it says", () => {
  const page = readFileSync(join(REPOSITORY, "docs/FAULTS.md"), "utf8");
  const rows = [...page.matchAll(/^\| (.+?) +\| `(.+?)` +\| (.+?) +\|$/gm)];
  const missing = rows.filter(([, , file = "", name = ""]) => {
    const path = join(REPOSITORY, file);
    return !existsSync(path) || !readFileSync(path, "utf8").includes(name);
  });
  expect(missing.map(([row]) => row)).toEqual([]);
  expect(rows.length).toBeGreaterThanOrEqual(ROWS_MIN);
  // Every row of the table was read.
  expect(page.split("\n").filter((line) => line.startsWith("|")).length).toBe(rows.length + 2);
});
