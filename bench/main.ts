/**
 * `npm run bench`: what a start, an exec and an idle VM cost, on this machine and in one run, with runc and crun beside
 * them. Prints a table and writes build/bench.json. Nothing here decides a test: machines are shared and noisy.
 */
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { REPOSITORY, runCommand } from "../scripts/step.ts";
import { CacheService } from "../src/gen/cache_pb.ts";
import { createGrpcClient, GrpcClient } from "../src/rpc/grpc.ts";
import { type Hearth, openHearth } from "../test/harness/hearth.ts";
import { startPool, vmRecords } from "../test/harness/pool.ts";
import { PATH } from "../test/harness/program.ts";
import { firstOutput, type Launch, type Samples, sample, summarize, wholeProcess } from "./measure.ts";
import { measureTemplates } from "./templates.ts";
import { measureThroughput } from "./throughput.ts";

const STARTS = 7;
const QUICK = 30;
const CLAIMS = 20;
const CLAIM_TIMEOUT_MS = 30_000;
const QEMU = "/usr/bin/qemu-system-x86_64";
const MIB = 1024 * 1024;

interface Row {
  readonly name: string;
  readonly value: number;
  readonly unit: "ms" | "MiB" | "MiB/s";
  /** What it is a ratio to, and the ratio. */
  readonly ratios: Readonly<Record<string, number>>;
  readonly samples?: Samples;
}

const rows: Row[] = [];

function add(name: string, samples: Samples, ratios: Readonly<Record<string, number>> = {}): number {
  record({ name, value: samples.median, unit: "ms", ratios, samples });
  return samples.median;
}

function record(row: Row): void {
  rows.push(row);
  const ratios = Object.entries(row.ratios).map(([to, ratio]) => `${ratio.toFixed(3)} of ${to}`);
  process.stdout.write(
    `${row.name.padEnd(52)} ${row.value.toFixed(1).padStart(9)} ${row.unit}   ${ratios.join(", ")}\n`,
  );
}

/** `bun bench/main.ts templates` measures those alone. */
async function bench(): Promise<void> {
  if (process.argv[2] !== "templates") await benchAll();
  await measureTemplates({
    time: add,
    memory: (name, value) => record({ name, value, unit: "MiB", ratios: {} }),
  });
  mkdirSync(join(REPOSITORY, "build"), { recursive: true });
  writeFileSync(join(REPOSITORY, "build/bench.json"), `${JSON.stringify({ machine: machine(), rows }, null, 2)}\n`);
}

async function benchAll(): Promise<void> {
  const hold = new HeldQemu();
  const opened = openHearth({
    config: {
      hypervisor: { path: hold.program },
      factory: { vm_cache_lease_ms: 1000 },
      runtime: { log_level: "warn" },
    },
  });
  try {
    await measure(opened.hearth, hold);
  } catch (thrown) {
    process.stderr.write(opened.describe());
    throw thrown;
  } finally {
    hold.release();
    await opened.close();
    hold.remove();
  }
}

async function measure(hearth: Hearth, hold: HeldQemu): Promise<void> {
  process.stdout.write(`${machine()}\n`);
  const bundle = await hearth.bundle({ args: ["echo", "hello"] });
  const runc = add("runc: run to first output", await sample(STARTS, () => firstOutput(runcRun(bundle))));
  const cold = await sample(STARTS, () => firstOutput(run(hearth, bundle, hearth.configPath)));
  const coldMs = add("cold: run to first output", cold, { runc: cold.median / runc });
  await measureRunning(hearth);
  await measurePool(hearth, hold, bundle, coldMs, runc);
  for (const { name, value, ofQemu } of await measureThroughput(hearth)) {
    record({ name, value, unit: "MiB/s", ratios: ofQemu === undefined ? {} : { "bare QEMU": ofQemu } });
  }
  const executable = statSync(hearth.executable).size / MIB;
  record({ name: "executable", value: executable, unit: "MiB", ratios: {} });
  record({ name: "unpacked guest", value: guestMib(hearth.dataDir), unit: "MiB", ratios: {} });
}

/** Commands on a container that runs, and its end. */
async function measureRunning(hearth: Hearth): Promise<void> {
  const bundle = await hearth.bundle({ args: ["sleep", "100000"] });
  const start = () => wholeProcess(runtime(hearth, ["run", "--detach", "--bundle", bundle, "bench"]));
  const end = () => wholeProcess(runtime(hearth, ["delete", "--force", "bench"]));
  await start();
  add("exec true, whole process", await sample(STARTS, () => wholeProcess(runtime(hearth, ["exec", "bench", "true"]))));
  const crunMs = (await sample(QUICK, () => crunState(hearth))).median;
  const state = await sample(QUICK, () => wholeProcess(runtime(hearth, ["state", "bench"])));
  add("state, whole process", state, { crun: state.median / crunMs });
  await end();
  const ends: number[] = [];
  for (let index = 0; index < STARTS; index++) {
    await start();
    ends.push(await end());
  }
  add("delete --force of a running container", summarize(ends));
}

async function measurePool(hearth: Hearth, hold: HeldQemu, bundle: string, cold: number, runc: number): Promise<void> {
  // The record says idle a moment before the server knows it: a claim waits rather than booting one.
  const config = hearth.configWith({ factory: { vm_cache_number: 1, vm_cache_timeout_ms: CLAIM_TIMEOUT_MS } });
  await using pool = startPool(hearth, 1);
  const full = async (): Promise<void> => {
    hold.release();
    await pool.idle(1);
  };
  const warm = await sample(STARTS, async () => {
    await full();
    hold.hold();
    return await firstOutput(run(hearth, bundle, config));
  });
  add("warm: run to first output, refill held back", warm, { cold: warm.median / cold, runc: warm.median / runc });
  const competing = await sample(STARTS, async () => {
    await full();
    return await firstOutput(run(hearth, bundle, config));
  });
  add("warm: run to first output, refill competing", competing, { cold: competing.median / cold });
  await full();
  measureIdle(hearth);
  await measureClaims(hearth, full);
}

/** Proportional set sizes of what one idle VM consists of. */
function measureIdle(hearth: Hearth): void {
  const [vm] = vmRecords(hearth.runDir).filter(({ state }) => state === "idle");
  if (vm === undefined) throw new Error("no idle VM");
  let total = 0;
  for (const { pid } of [vm.sandbox, ...vm.processes]) {
    const name = readFileSync(`/proc/${pid}/comm`, "utf8").trim();
    const pss = Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1]) / 1024;
    total += pss;
    record({
      name: `PSS of an idle VM: ${pid === vm.sandbox.pid ? "sandbox process" : name}`,
      value: pss,
      unit: "MiB",
      ratios: {},
    });
  }
  record({ name: "PSS of an idle VM: all of it", value: total, unit: "MiB", ratios: {} });
}

/**
 * On one connection, as Kata's client does it; nobody adopts, so each VM ends and the next is booted. A claim is made
 * when the server itself says that a VM is idle: the record says so some milliseconds earlier, and that wait is no latency.
 */
async function measureClaims(hearth: Hearth, full: () => Promise<void>): Promise<void> {
  await using client = new GrpcClient(hearth.endpoint);
  const cache = createGrpcClient(CacheService, client);
  await cache.config({}, { timeoutMs: 10_000 });
  const claims: number[] = [];
  const refills: number[] = [];
  for (let index = 0; index < CLAIMS; index++) {
    await full();
    while ((await cache.status({}, { timeoutMs: 10_000 })).vmstatus.length === 0) await Bun.sleep(5);
    const startedAt = performance.now();
    const { id } = await cache.getBaseVM({}, { timeoutMs: 60_000 });
    claims.push(performance.now() - startedAt);
    const isNext = () => vmRecords(hearth.runDir).some(({ vmId, state }) => vmId !== id && state === "idle");
    while (!isNext()) await Bun.sleep(5);
    refills.push(performance.now() - startedAt);
  }
  const claim = summarize(claims);
  add("GetBaseVM on an open connection, p50", claim);
  record({ name: "GetBaseVM on an open connection, p99", value: claim.p99, unit: "ms", ratios: {} });
  add("hand-out to refilled", summarize(refills));
}

/** A QEMU that waits to be let go before it starts: a refill that does not compete with what is measured. */
class HeldQemu {
  readonly #dir = `/tmp/hearth-bench-${process.pid}`;
  readonly program = join(this.#dir, "qemu");
  readonly #flag = join(this.#dir, "hold");

  constructor() {
    mkdirSync(this.#dir, { mode: 0o700 });
    const wait = `[ "$1" = --version ] || while [ -e ${this.#flag} ]; do sleep 0.05; done`;
    writeFileSync(this.program, `#!/bin/sh\n${wait}\nexec ${QEMU} "$@"\n`);
    chmodSync(this.program, 0o755);
  }

  hold(): void {
    writeFileSync(this.#flag, "");
  }

  release(): void {
    rmSync(this.#flag, { force: true });
  }

  remove(): void {
    rmSync(this.#dir, { recursive: true });
  }
}

let runs = 0;

function run(hearth: Hearth, bundle: string, config: string): Launch {
  return runtime(hearth, ["--config", config, "run", "--bundle", bundle, `bench-${++runs}`]);
}

function runtime(hearth: Hearth, args: readonly string[]): Launch {
  return { argv: [hearth.runtimePath, ...args], argv0: "hearth-runtime", env: { PATH, ...hearth.env } };
}

function runcRun(bundle: string): Launch {
  return { argv: ["runc", "run", "--bundle", bundle, `bench-${process.pid}-${++runs}`], env: { PATH } };
}

/** crun reads a state of its own; a container that is not there would be quicker, so one is made up. */
async function crunState(hearth: Hearth): Promise<number> {
  const root = join(hearth.dir, "crun");
  if (!existsSync(root)) {
    mkdirSync(join(root, "bench"), { recursive: true });
    const status = {
      pid: process.pid,
      "process-start-time": 1,
      "cgroup-path": "",
      scope: null,
      rootfs: "/",
      "systemd-cgroup": false,
    };
    const more = {
      bundle: "/",
      created: "2026-01-01T00:00:00Z",
      owner: "root",
      detached: true,
      external_descriptors: "[]",
    };
    writeFileSync(join(root, "bench/status"), JSON.stringify({ ...status, ...more }));
    writeFileSync(join(root, "bench/config.json"), '{"ociVersion":"1.0.0"}');
  }
  return await wholeProcess({ argv: ["crun", "--root", root, "state", "bench"], env: { PATH } });
}

function guestMib(dataDir: string): number {
  const [digest] = readdirSync(join(dataDir, "guest")).filter((name) => name !== "lock");
  if (digest === undefined) return 0;
  const dir = join(dataDir, "guest", digest);
  return readdirSync(dir).reduce((sum, name) => sum + statSync(join(dir, name)).size, 0) / MIB;
}

function machine(): string {
  const [cpu] = cpus();
  return `${cpus().length} × ${cpu?.model.trim()}, emulation (TCG) unless /dev/kvm is usable`;
}

if (import.meta.main) await runCommand(bench);
