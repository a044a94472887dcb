/**
 * The first process of a cell: runs `bun test` on the files, looks after it for what it left behind, and writes what
 * came of it for the runner.
 *
 * bun scripts/test/cell-main.ts DIR NAME FILE…   DIR/output.log is the tests' output, DIR/outcome.json the CellOutcome
 */
import { closeSync, mkdirSync, openSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ChildReaper } from "../../src/sys/child-reaper.ts";
import { asFd } from "../../src/sys/fd.ts";
import { unmountTree } from "../../src/sys/mount.ts";
import { describeExit, exitCodeOf, spawnProcess } from "../../src/sys/process.ts";
import { type ProcessIdentity, processExit, signalProcess } from "../../src/sys/process-identity.ts";
import { SIGKILL } from "../../src/sys/signals.ts";
import { sleep } from "../../src/util/wait.ts";
import { addedSince, descendantsOf, describeProcess, mountsBelow, takeSnapshot } from "../../test/harness/leftovers.ts";
import { REPOSITORY, runCommand, StepError, toolEnvironment } from "../step.ts";
import { furnishCell } from "./cell.ts";
import { parseJunit, type TestCase } from "./junit.ts";
import { type CellOutcome, OUTCOME_FILE, OUTPUT_FILE } from "./outcome.ts";

/** Emulated VMs boot in seconds, so a test may take a while; one that hangs must not take the run with it. */
const TEST_TIMEOUT_MS = 120_000;
/** The longest are those of test/vsock, with VMs in a VM, on a machine that does other things too. */
const FILE_TIMEOUT_MS = 1_800_000;
/** Processes that were told to end may take this long to be gone. */
const EXIT_GRACE_MS = 3_000;

/** Runs one `bun test`; returns its cases, with a failed one added when it ended badly without saying which. */
async function runTests(files: readonly string[], dir: string, tests: string): Promise<TestCase[]> {
  const report = join(dir, "report.xml");
  const argv = ["test", `--timeout=${TEST_TIMEOUT_MS}`, "--reporter=junit", `--reporter-outfile=${report}`];
  const output = openSync(join(dir, OUTPUT_FILE), "w");
  // Not by Bun.spawn: the reaper of orphans, which this process has too, knows the children of spawnProcess alone.
  const child = spawnProcess({
    argv: [process.execPath, ...argv, ...files.map((file) => `./${file}`)],
    cwd: REPOSITORY,
    // With CI set, a forgotten test.only is an error and no snapshot is written.
    env: { ...toolEnvironment(), TMPDIR: tests, CI: "true", NO_COLOR: "1" },
    stdio: ["ignore", asFd(output), asFd(output)],
  });
  closeSync(output);
  const timeout = setTimeout(() => child.kill(SIGKILL), FILE_TIMEOUT_MS);
  const ended = await child.exited;
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
  return cases;
}

/** What the tests left behind, one line each; what would outlive the cell is removed. */
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
  const ends = async (processes: readonly ProcessIdentity[]): Promise<void> => {
    const waiting = new AbortController();
    const grace = sleep(EXIT_GRACE_MS, waiting.signal).catch(() => undefined);
    await Promise.race([Promise.all(processes.map((one) => processExit(one))), grace]);
    waiting.abort();
  };
  await ends(descendantsOf(process.pid));
  const stubborn = descendantsOf(process.pid);
  const lines = stubborn.map(describeProcess);
  for (const one of stubborn) signalProcess(one, SIGKILL);
  await ends(stubborn);
  return lines;
}

async function main(): Promise<void> {
  const [dir, ...files] = process.argv.slice(2);
  if (dir === undefined || process.pid !== 1) throw new StepError("cell-main is started by scripts/test/main.ts");
  await furnishCell();
  using reaper = new ChildReaper();
  reaper.start();
  const tests = join(dir, "t");
  mkdirSync(tests);
  const before = takeSnapshot();
  const cases = await runTests(files, dir, tests);
  const left = await collectLeftovers(tests, before);
  const outcome: CellOutcome = { cases, left };
  writeFileSync(join(dir, OUTCOME_FILE), JSON.stringify(outcome));
}

await runCommand(main);
