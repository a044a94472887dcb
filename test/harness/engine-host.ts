/**
 * What every engine's tests need: the runtime under a configuration of its own, cold or with a pool, and after each step
 * a look at whether a VM was left. With HEARTH_TEST_RUNTIME=/usr/sbin/runc the same steps run on runc, which proves the
 * tests themselves; the kernel is then the host's.
 */
import { afterAll, beforeAll, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { join, resolve } from "node:path";
import { readManifest } from "../../guest/manifest.ts";
import { type Hearth, openHearth } from "./hearth.ts";
import { type Pool, startPool, vmRecords } from "./pool.ts";

const OTHER_RUNTIME = process.env["HEARTH_TEST_RUNTIME"];
const POOL_SIZE = 1;
/** Lines of an engine's log that are shown when a step failed. */
const LOG_TAIL_LINES = 40;
/** How long a suite may take to start or stop its engine. */
const ENGINE_HOOK_TIMEOUT_MS = 120_000;

/** Each suite runs in all of these. */
export const ENGINE_MODES = [
  ["cold", false],
  ["from the pool", true],
] as const;

export interface EngineHost {
  readonly hearth: Hearth;
  /** Absolute path for the engine. Finds its configuration whatever environment the engine gives it. */
  readonly runtimePath: string;
  /** What `uname -r` says in a container. */
  readonly kernel: string;
  /** Claims of VMs that the pool could not serve. */
  poolMisses(): Promise<number>;
  /** Resolves when the next container can come from the pool; at once without one. */
  ready(): Promise<void>;
  /** VMs that are neither idle in the pool nor on their way to it. */
  usedVms(): string[];
  /** The logs of VMs and pool. */
  describe(): string;
  /** Ends the pool, and fails for anything left. */
  close(): Promise<void>;
}

async function openEngineHost(pooled: boolean): Promise<EngineHost> {
  // Held-up requests wait for the pool's refill, so that every container of the pool's tests comes from it.
  const factory = pooled ? { vm_cache_number: POOL_SIZE, vm_cache_timeout_ms: 60_000 } : {};
  const opened = openHearth({ config: { factory } });
  const { hearth } = opened;
  const pool: Pool | undefined = pooled && OTHER_RUNTIME === undefined ? startPool(hearth, POOL_SIZE) : undefined;
  return {
    hearth,
    runtimePath: OTHER_RUNTIME ?? writeWrapper(hearth),
    kernel: await containerKernel(),
    ready: async () => await pool?.idle(POOL_SIZE),
    poolMisses: async () => {
      if (pool === undefined) return 0;
      const { stdout } = await hearth.run(["vmcache", "status", "--json"]);
      const status: unknown = JSON.parse(stdout);
      if (typeof status === "object" && status !== null && "misses" in status) return Number(status.misses);
      throw new Error(`the pool's status has no misses: ${stdout}`);
    },
    usedVms: () =>
      vmRecords(hearth.runDir)
        .filter(({ state }) => state !== "idle" && state !== "booting")
        .map(({ vmId }) => vmId),
    describe: () => `${opened.describe()}${pool?.log() ?? ""}`,
    close: async () => {
      await pool?.stop();
      await opened.close();
    },
  };
}

/** Engines call runtimes with environments of their own. */
function writeWrapper(hearth: Hearth): string {
  const path = join(hearth.dir, "hearth-runtime");
  writeFileSync(path, `#!/bin/sh\nHEARTH_CONFIG=${hearth.configPath} exec ${hearth.runtimePath} "$@"\n`);
  chmodSync(path, 0o755);
  return path;
}

async function containerKernel(): Promise<string> {
  if (OTHER_RUNTIME !== undefined) return release();
  const manifest = await readManifest(resolve(import.meta.dir, "../../build/guest"));
  if (manifest === undefined) throw new Error("the guest is not built");
  return manifest.kernelVersion;
}

/** An engine of a suite's own. */
export interface Engine extends AsyncDisposable {
  /** Its own log, where it has one. */
  readonly log?: () => string;
  /** Names of what it still holds. */
  left(): Promise<string[]>;
  /** Removes it, after a failure that others must not follow from. */
  clean(): Promise<void>;
}

/** A test that leaves no VM behind, unless `keeps`. When it fails, the engine's log and the VMs' are shown. */
export type EngineStep = (name: string, run: () => Promise<void>, options?: { readonly keeps?: boolean }) => void;

/** Opens the host and, by `start`, the engine for the tests of the suite that it is called in, and closes both afterwards. */
export function engineSuite(pooled: boolean, start: (host: EngineHost) => Promise<Engine>): EngineStep {
  let host: EngineHost;
  let engine: Engine;
  beforeAll(async () => {
    host = await openEngineHost(pooled);
    engine = await start(host);
  }, ENGINE_HOOK_TIMEOUT_MS);
  afterAll(async () => {
    await engine[Symbol.asyncDispose]();
    await host.close();
  }, ENGINE_HOOK_TIMEOUT_MS);
  return (name, run, options) => engineStep(() => ({ host, engine }), name, run, options);
}

function engineStep(
  opened: () => { readonly host: EngineHost; readonly engine: Engine },
  name: string,
  run: () => Promise<void>,
  options: { readonly keeps?: boolean } = {},
): void {
  test(name, async () => {
    const { host, engine } = opened();
    const { log = () => "" } = engine;
    try {
      await host.ready();
      await run();
      if (options.keeps === true) return;
      const remaining = [...host.usedVms().map((id) => `VM ${id}`), ...(await engine.left())];
      if (remaining.length > 0) throw new Error(`left behind:\n${remaining.join("\n")}`);
    } catch (thrown) {
      process.stderr.write(`${host.describe()}${log().split("\n").slice(-LOG_TAIL_LINES).join("\n")}\n`);
      // The first failure is the one to read.
      await engine.clean().catch((failed: unknown) => process.stderr.write(`${failed}\n`));
      throw thrown;
    }
  });
}
