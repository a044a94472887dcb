/**
 * Runs the tests: those beside the sources in one go, then every file of test/ by itself, each in a cell of its own
 * (scripts/test/cell.ts), as many at once as there are cores. The last line is `N passed, N failed`.
 *
 * bun scripts/test.ts [--jobs=N] [PART-OF-A-PATH…]   only files whose path contains one of the parts
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { SIGKILL } from "../src/sys/signals.ts";
import { REPOSITORY, runCommand, StepError, toolEnvironment } from "./step.ts";
import { type Cell, openCell } from "./test/cell.ts";
import { type CellOutcome, OUTCOME_FILE, OUTPUT_FILE } from "./test/outcome.ts";

const SOURCE_DIRS = ["src", "guest", "scripts", "bench"];
/** What takes long goes first, so that no core is idle while the last file runs. */
const LONGEST = ["test/vsock/", "test/test-host/", "test/conformance/", "test/engines/", "test/e2e/"];
/** Beyond this many VMs that are emulated at once, memory is short before cores are. */
const JOBS_MAX = 4;
const HEARTBEAT_MS = 30_000;
/** The name of a skipped test ends in its reason; see test/harness/skip.ts. */
const SKIP_REASON = /\[skipped: .+\]$/;

interface Totals {
  passed: number;
  failed: number;
  readonly skipped: string[];
}

interface Group {
  readonly name: string;
  readonly files: readonly string[];
}

interface Run {
  readonly dir: string;
  readonly startedAt: number;
  readonly cells: Set<Cell>;
  /** Cells so far. */
  opened: number;
  readonly totals: Totals;
}

async function findGroups(parts: readonly string[]): Promise<Group[]> {
  const wanted = (path: string): boolean => parts.length === 0 || parts.some((part) => path.includes(part));
  const scan = async (dir: string): Promise<string[]> => {
    const found = await Array.fromAsync(new Bun.Glob(`${dir}/**/*.test.ts`).scan({ cwd: REPOSITORY }));
    return found.filter(wanted).sort();
  };
  const beside = (await Promise.all(SOURCE_DIRS.map(scan))).flat();
  const rank = (path: string): number => {
    const place = LONGEST.findIndex((dir) => path.startsWith(dir));
    return place < 0 ? LONGEST.length : place;
  };
  const apart = (await scan("test")).sort((a, b) => rank(a) - rank(b));
  const groups = apart.map((file) => ({ name: file, files: [file] }));
  return beside.length === 0 ? groups : [{ name: `unit tests (${beside.length} files)`, files: beside }, ...groups];
}

function say(startedAt: number, text: string): void {
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1).padStart(6);
  process.stderr.write(`test  ${seconds} s  ${text}\n`);
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function lastLine(path: string): string {
  const lines = readText(path).trim().split("\n");
  return lines.findLast((line) => /^\((pass|fail|skip)\)/.test(line)) ?? "no test has ended yet";
}

async function runGroup(group: Group, run: Run): Promise<void> {
  // Short, because paths of unix sockets below it are bounded.
  const number = String(++run.opened);
  const dir = join(run.dir, number);
  mkdirSync(dir);
  await using cell = openCell({
    name: `${basename(run.dir)}-${number}`,
    argv: [process.execPath, join(import.meta.dir, "test/cell-main.ts"), dir, ...group.files],
    cwd: REPOSITORY,
    env: toolEnvironment(),
  });
  run.cells.add(cell);
  const heartbeat = setInterval(
    () => say(run.startedAt, `  ${group.name}: ${lastLine(join(dir, OUTPUT_FILE))}`),
    HEARTBEAT_MS,
  );
  await cell.process.exited;
  clearInterval(heartbeat);
  run.cells.delete(cell);
  const outcome = readText(join(dir, OUTCOME_FILE));
  const { cases, left }: CellOutcome =
    outcome === "" ? { cases: [{ name: "its cell ended early", outcome: "failed" }], left: [] } : JSON.parse(outcome);
  say(run.startedAt, `${group.name}: ${report(group, cases, left, readText(join(dir, OUTPUT_FILE)), run.totals)}`);
}

function report(
  group: Group,
  cases: CellOutcome["cases"],
  left: readonly string[],
  output: string,
  totals: Totals,
): string {
  const failed = cases.filter(({ outcome }) => outcome === "failed");
  const skipped = cases.filter(({ outcome }) => outcome === "skipped").map(({ name }) => name);
  const passed = cases.length - failed.length - skipped.length;
  totals.passed += passed;
  totals.failed += failed.length + (left.length > 0 ? 1 : 0);
  totals.skipped.push(...skipped);
  if (failed.length > 0) process.stderr.write(`${output}\n`);
  for (const { name } of failed) process.stderr.write(`FAILED  ${group.name}: ${name}\n`);
  if (left.length > 0) {
    process.stderr.write(`FAILED  ${group.name}: left behind\n${left.map((line) => `          ${line}\n`).join("")}`);
  }
  for (const name of skipped) process.stderr.write(`SKIPPED ${group.name}: ${name}\n`);
  const counts = [
    `${passed} passed`,
    `${failed.length} failed`,
    ...(skipped.length > 0 ? [`${skipped.length} skipped`] : []),
  ];
  return counts.join(", ");
}

function checkSkips(skipped: readonly string[], everything: boolean): string[] {
  const wrong = skipped.filter((name) => !SKIP_REASON.test(name)).map((name) => `skipped without a reason: ${name}`);
  const max = Number(readFileSync(join(REPOSITORY, "test/skips-max.txt"), "utf8").trim());
  if (everything && !(skipped.length <= max)) wrong.push(`${skipped.length} tests skipped, ${max} are allowed`);
  return wrong;
}

function readJobs(text: string | undefined): number {
  if (text === undefined) return Math.min(availableParallelism(), JOBS_MAX);
  const jobs = Number(text);
  if (!Number.isInteger(jobs) || jobs < 1) throw new StepError(`--jobs=${text}: not a number of 1 and more`);
  return jobs;
}

/** Interrupted, we leave nothing behind either: what runs in the cells ends with them. */
function endCellsWhenInterrupted(run: Run, waiting: Group[]): void {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => {
      waiting.length = 0;
      for (const cell of run.cells) cell.process.kill(SIGKILL);
    });
  }
}

async function main(): Promise<void> {
  const { values, positionals: parts } = parseArgs({
    options: { jobs: { type: "string" } },
    allowPositionals: true,
  });
  const jobs = readJobs(values.jobs);
  const waiting = await findGroups(parts);
  if (waiting.length === 0) throw new StepError(`no test file matches ${parts.join(" ")}`);
  if (process.getuid?.() !== 0) throw new StepError("the tests make namespaces, mounts and VMs: run them as root");
  const run: Run = {
    dir: mkdtempSync(join(tmpdir(), "ht-")),
    startedAt: performance.now(),
    cells: new Set(),
    opened: 0,
    totals: { passed: 0, failed: 0, skipped: [] },
  };
  endCellsWhenInterrupted(run, waiting);
  const work = async (): Promise<void> => {
    for (let group = waiting.shift(); group !== undefined; group = waiting.shift()) await runGroup(group, run);
  };
  try {
    await Promise.all(Array.from({ length: jobs }, work));
  } finally {
    rmSync(run.dir, { recursive: true, force: true });
  }
  const { totals } = run;
  for (const wrong of checkSkips(totals.skipped, parts.length === 0)) {
    totals.failed++;
    process.stderr.write(`FAILED  ${wrong}\n`);
  }
  const skips = totals.skipped.length > 0 ? `, ${totals.skipped.length} skipped` : "";
  process.stdout.write(`${totals.passed} passed, ${totals.failed} failed${skips}\n`);
  if (totals.failed > 0 || totals.passed === 0) process.exitCode = 1;
}

await runCommand(main);
