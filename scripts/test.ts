/**
 * Runs the tests: those beside the sources in one go, then every file of test/ by itself, and looks after each for what
 * it left behind. The last line is `N passed, N failed`.
 *
 * bun scripts/test.ts [PART-OF-A-PATH…]   only files whose path contains one of the parts
 */
import { closeSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChildReaper } from "../src/sys/child-reaper.ts";
import { asFd } from "../src/sys/fd.ts";
import { unmountTree } from "../src/sys/mount.ts";
import { becomeSubreaper, describeExit, exitCodeOf, spawnProcess } from "../src/sys/process.ts";
import { type ProcessIdentity, processExit, signalProcess } from "../src/sys/process-identity.ts";
import { SIGKILL } from "../src/sys/signals.ts";
import { addedSince, descendantsOf, describeProcess, mountsBelow, takeSnapshot } from "../test/harness/leftovers.ts";
import { parseJunit, type TestCase } from "./junit.ts";
import { REPOSITORY, runCommand, StepError, toolEnvironment } from "./step.ts";

const SOURCE_DIRS = ["src", "guest", "scripts", "bench"];
/** Emulated VMs boot in seconds, so a test may take a while; one that hangs must not take the run with it. */
const TEST_TIMEOUT_MS = 120_000;
/** The longest is test/vsock/containers.test.ts, with VMs in a VM, on a machine that does other things too. */
const FILE_TIMEOUT_MS = 1_800_000;
/** Processes that were told to end may take this long to be gone. */
const EXIT_GRACE_MS = 3_000;
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

async function findGroups(parts: readonly string[]): Promise<Group[]> {
  const wanted = (path: string): boolean => parts.length === 0 || parts.some((part) => path.includes(part));
  const scan = async (dir: string): Promise<string[]> => {
    const found = await Array.fromAsync(new Bun.Glob(`${dir}/**/*.test.ts`).scan({ cwd: REPOSITORY }));
    return found.filter(wanted).sort();
  };
  const beside = (await Promise.all(SOURCE_DIRS.map(scan))).flat();
  // What takes long and needs the built executable goes last.
  const isSlow = (path: string): boolean => /\/(?:e2e|engines)\//.test(path);
  const apart = (await scan("test")).sort((a, b) => Number(isSlow(a)) - Number(isSlow(b)));
  const groups = apart.map((file) => ({ name: file, files: [file] }));
  return beside.length === 0 ? groups : [{ name: `unit tests (${beside.length} files)`, files: beside }, ...groups];
}

function say(startedAt: number, text: string): void {
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1).padStart(6);
  process.stderr.write(`test  ${seconds} s  ${text}\n`);
}

function lastLine(path: string): string {
  const lines = readFileSync(path, "utf8").trim().split("\n");
  return lines.findLast((line) => /^\((pass|fail|skip)\)/.test(line)) ?? "no test has ended yet";
}

/** Runs one `bun test`; returns its cases, with a failed one added when it ended badly without saying which. */
async function runGroup(group: Group, dir: string, startedAt: number): Promise<{ cases: TestCase[]; output: string }> {
  const report = join(dir, "report.xml");
  const log = join(dir, "output.log");
  const tests = join(dir, "t");
  rmSync(report, { force: true });
  const argv = ["test", `--timeout=${TEST_TIMEOUT_MS}`, "--reporter=junit", `--reporter-outfile=${report}`];
  const output = openSync(log, "w");
  // Not by Bun.spawn: the reaper of orphans, which this process has too, knows the children of spawnProcess alone.
  const child = spawnProcess({
    argv: [process.execPath, ...argv, ...group.files.map((file) => `./${file}`)],
    cwd: REPOSITORY,
    // With CI set, a forgotten test.only is an error and no snapshot is written.
    env: { ...toolEnvironment(), TMPDIR: tests, CI: "true", NO_COLOR: "1" },
    stdio: ["ignore", asFd(output), asFd(output)],
  });
  closeSync(output);
  const heartbeat = setInterval(() => say(startedAt, `  ${group.name}: ${lastLine(log)}`), HEARTBEAT_MS);
  const timeout = setTimeout(() => child.kill(SIGKILL), FILE_TIMEOUT_MS);
  const ended = await child.exited;
  clearInterval(heartbeat);
  clearTimeout(timeout);
  const xml = await Bun.file(report)
    .text()
    .catch(() => "");
  const cases = parseJunit(xml);
  const anyFailed = cases.some(({ outcome }) => outcome === "failed");
  if (exitCodeOf(ended) !== 0 && !anyFailed) {
    cases.push({ name: `bun test ended with ${describeExit(ended)}`, outcome: "failed" });
  }
  if (cases.length === 0) cases.push({ name: "no test ran", outcome: "failed" });
  return { cases, output: readFileSync(log, "utf8") };
}

/** What the group left behind, one line each; it is removed, so that the next group starts clean. */
async function collectLeftovers(tests: string, before: ReadonlySet<string>): Promise<string[]> {
  const left = [...(await endProcesses()), ...addedSince(before)];
  for (const mount of mountsBelow(tests)) await unmountTree(mount);
  for (const name of readdirSync(tests)) {
    left.push(`file ${join(tests, name)}`);
    rmSync(join(tests, name), { recursive: true, force: true });
  }
  return left;
}

async function endProcesses(): Promise<string[]> {
  const ends = (processes: readonly ProcessIdentity[]): Promise<unknown> =>
    Promise.race([Promise.all(processes.map((one) => processExit(one))), Bun.sleep(EXIT_GRACE_MS)]);
  await ends(descendantsOf(process.pid));
  const stubborn = descendantsOf(process.pid);
  const lines = stubborn.map(describeProcess);
  for (const one of stubborn) signalProcess(one, SIGKILL);
  await ends(stubborn);
  return lines;
}

function report(
  group: Group,
  cases: readonly TestCase[],
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

async function main(): Promise<void> {
  const parts = process.argv.slice(2);
  const groups = await findGroups(parts);
  if (groups.length === 0) throw new StepError(`no test file matches ${parts.join(" ")}`);
  becomeSubreaper();
  using reaper = new ChildReaper();
  reaper.start();
  // Short, because paths of unix sockets below it are bounded.
  const dir = mkdtempSync(join(tmpdir(), "ht-"));
  const tests = join(dir, "t");
  mkdirSync(tests);
  const totals: Totals = { passed: 0, failed: 0, skipped: [] };
  const startedAt = performance.now();
  try {
    for (const group of groups) {
      const before = takeSnapshot();
      const { cases, output } = await runGroup(group, dir, startedAt);
      const left = await collectLeftovers(tests, before);
      say(startedAt, `${group.name}: ${report(group, cases, left, output, totals)}`);
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  for (const wrong of checkSkips(totals.skipped, parts.length === 0)) {
    totals.failed++;
    process.stderr.write(`FAILED  ${wrong}\n`);
  }
  const skips = totals.skipped.length > 0 ? `, ${totals.skipped.length} skipped` : "";
  process.stdout.write(`${totals.passed} passed, ${totals.failed} failed${skips}\n`);
  if (totals.failed > 0 || totals.passed === 0) process.exitCode = 1;
}

await runCommand(main);
