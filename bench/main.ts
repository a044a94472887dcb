/**
 * `npm run bench`: what a start, an exec and an idle VM cost, on this machine and in one run, with runc and crun beside
 * them; how fast a pool refills, and how it grows. Prints a table and writes build/bench.json. Nothing here decides a
 * test: machines are shared and noisy. All of it takes about 40 minutes on two emulating cores.
 *
 * npm run bench -- PART…   only those parts; see PARTS
 */
import { runCommand, StepError } from "../scripts/step.ts";
import { measureClaims } from "./claims.ts";
import { measureEngines } from "./engines.ts";
import { measureGrowthOfBooted, measureGrowthOfClones } from "./growth.ts";
import { measureRefill } from "./refill.ts";
import { keep, machine, Report } from "./report.ts";
import { measureStarts } from "./starts.ts";
import { measureTemplates } from "./templates.ts";
import { measureThroughput } from "./throughput.ts";

type Measure = (report: Report) => Promise<void>;

const PARTS: Readonly<Record<string, Measure>> = {
  starts: measureStarts,
  engines: measureEngines,
  throughput: measureThroughput,
  templates: measureTemplates,
  refill: measureRefill,
  claims: measureClaims,
  "growth-clones": measureGrowthOfClones,
  "growth-booted": measureGrowthOfBooted,
};

async function bench(): Promise<void> {
  const asked = process.argv.slice(2);
  const names = asked.length === 0 ? Object.keys(PARTS) : asked;
  process.stdout.write(`${machine()}\n`);
  for (const name of names) {
    const measure = PARTS[name];
    if (measure === undefined) throw new StepError(`no part ${name}; there are ${Object.keys(PARTS).join(", ")}`);
    const startedAt = performance.now();
    const report = new Report(name);
    await measure(report);
    keep(report.rows);
    process.stdout.write(`-- ${name} took ${((performance.now() - startedAt) / 1000).toFixed(0)} s\n`);
  }
}

if (import.meta.main) await runCommand(bench);
