/**
 * `npm run demo`: the same container cold and warm, from a pool of two VMs that is watched while it fills. Everything it
 * starts and makes is its own and is gone afterwards.
 */
import { createConsola } from "consola";
import { vmCacheStatus } from "../src/vmcache/control.ts";
import { type Hearth, openHearth } from "../test/harness/hearth.ts";
import { startPool } from "../test/harness/pool.ts";
import { runCommand, StepError } from "./step.ts";

const POOL_SIZE = 2;
const LOOK_INTERVAL_MS = 250;

interface Run {
  readonly kernel: string;
  readonly durationMs: number;
}

const out = createConsola({ formatOptions: { date: false } });

async function demo(): Promise<void> {
  const opened = openHearth();
  try {
    const { hearth } = opened;
    const bundle = await hearth.bundle({ args: ["uname", "-r"] });
    out.start("cold: boot a VM for the container");
    const cold = await run(hearth, bundle, "demo-cold", false);
    out.success(`cold: ${seconds(cold.durationMs)}`);
    out.start(`pool: boot ${POOL_SIZE} VMs and put them aside`);
    const pool = startPool(hearth, POOL_SIZE);
    try {
      await watch(hearth, pool.idle(POOL_SIZE));
      out.start("warm: the same container in a VM of the pool");
      const warm = await run(hearth, bundle, "demo-warm", true);
      out.success(`warm: ${seconds(warm.durationMs)}`);
      const { hits } = await vmCacheStatus(hearth.endpoint);
      if (hits !== 1) throw new StepError(`the pool handed out ${hits} VMs, 1 was expected\n${pool.log()}`);
      await printTable(cold, warm);
    } finally {
      await pool[Symbol.asyncDispose]();
    }
  } catch (thrown) {
    process.stderr.write(opened.describe());
    throw thrown;
  } finally {
    await opened.close();
  }
  out.success("cleaned up: no process, mount or directory is left");
}

/** Whole command, from `hearth-runtime run` to its exit. */
async function run(hearth: Hearth, bundle: string, id: string, pooled: boolean): Promise<Run> {
  const config = pooled ? hearth.configWith({ factory: { vm_cache_number: POOL_SIZE } }) : hearth.configPath;
  const startedAt = performance.now();
  const { status, stdout, stderr } = await hearth.runtime(["--config", config, "run", "--bundle", bundle, id]);
  const durationMs = performance.now() - startedAt;
  if (status !== 0) throw new StepError(`${id} ended with status ${status}\n${stderr}`);
  return { kernel: stdout.trim(), durationMs };
}

/** Says what the pool's slots are doing until `full` resolves. */
async function watch(hearth: Hearth, full: Promise<void>): Promise<void> {
  let done = false;
  const settled = full.finally(() => {
    done = true;
  });
  let shown = "";
  while (!done) {
    const line = await poolLine(hearth);
    if (line !== shown && line !== "") out.info(line);
    shown = line;
    await Promise.race([settled, Bun.sleep(LOOK_INTERVAL_MS)]);
  }
  await settled;
  out.success(await poolLine(hearth));
}

async function poolLine(hearth: Hearth): Promise<string> {
  try {
    const { slots } = await vmCacheStatus(hearth.endpoint);
    return slots.map(({ index, state, step }) => `VM ${index + 1}: ${step === "" ? state : step}`).join(", ");
  } catch {
    // The server is not there yet.
    return "";
  }
}

async function printTable(cold: Run, warm: Run): Promise<void> {
  const host = (await Bun.file("/proc/sys/kernel/osrelease").text()).trim();
  const ratio = (warm.durationMs / cold.durationMs).toFixed(2);
  const rows = [
    ["", "time", "of cold", "kernel inside"],
    ["cold", seconds(cold.durationMs), "1", cold.kernel],
    ["warm", seconds(warm.durationMs), ratio, warm.kernel],
    ["host", "", "", host],
  ];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((row) => (row[column] ?? "").length)));
  for (const row of rows) out.log(row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("   "));
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

if (import.meta.main) await runCommand(demo);
