/** The metrics of a pool: read by Prometheus' own parser, compared with what happened, the documentation and the dashboard. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { REPOSITORY } from "../../scripts/step.ts";
import { servePageLoopback } from "../../src/rpc/http-page.ts";
import { METRICS } from "../../src/vmcache/metrics.ts";
import { type ParsedFamily, parseMetrics, sampleValue } from "../harness/metrics-page.ts";
import { PoolInProcess, PoolProcess, poolClient } from "../harness/pool-fixture.ts";
import { rejection } from "../harness/rejection.ts";
import { sandboxFixture, VM_CONFIG } from "../harness/sandbox-fixture.ts";

const never = new AbortController().signal;
const SHAPE = { shape: "1x256" };

async function pageOf(endpoint: string): Promise<string> {
  const answer = await fetch("http://localhost/metrics", { unix: endpoint });
  expect([answer.status, answer.headers.get("content-type")]).toEqual([
    200,
    "text/plain; version=0.0.4; charset=utf-8",
  ]);
  return await answer.text();
}

/** A port that was free a moment ago. */
async function freePort(): Promise<number> {
  await using page = servePageLoopback(0, { path: "/", contentType: "", text: async () => "" });
  return page.port;
}

test("what happens in the pool is what the page says", async () => {
  using fixture = sandboxFixture();
  const endpoint = `${fixture.runDir}/metrics.sock`;
  const port = await freePort();
  await using pool = new PoolInProcess(fixture, { metrics: { endpoint, port } });
  await pool.seen("ready", 2);
  expect(statSync(endpoint).mode & 0o777).toBe(0o600);
  const values = async (): Promise<(name: string, labels?: Record<string, string>) => number | undefined> => {
    const families = await parseMetrics(await pageOf(endpoint));
    return (name, labels) => sampleValue(families, name, labels);
  };

  const full = await values();
  expect(full("hearth_pool_wanted_vms", SHAPE)).toBe(2);
  expect(full("hearth_pool_slots", { ...SHAPE, state: "idle" })).toBe(2);
  expect(full("hearth_pool_slots", { ...SHAPE, state: "backing-off" })).toBe(0);
  expect(full("hearth_pool_boot_seconds_count", SHAPE)).toBe(2);
  expect(full("hearth_pool_hits_total", SHAPE)).toBeUndefined();
  expect(full("hearth_pool_misses_total", { reason: "mismatch" })).toBe(0);
  expect(full("hearth_pool_promised_memory_bytes")).toBe(2 * 256 * 1024 * 1024);
  expect(full("hearth_pool_config_refused")).toBe(0);
  const oldest = full("hearth_pool_idle_vm_age_seconds", { ...SHAPE, which: "oldest" }) ?? -1;
  expect(oldest).toBeGreaterThanOrEqual(
    full("hearth_pool_idle_vm_age_seconds", { ...SHAPE, which: "youngest" }) ?? Infinity,
  );
  // Two programs of Bun and two of sleep(1).
  for (const process of ["sandbox", "qemu"]) {
    expect(full("hearth_pool_vm_memory_bytes", { state: "idle", process })).toBeGreaterThan(50_000);
  }

  const vm = await poolClient(pool.options.endpoint).getBaseVm(VM_CONFIG, never);
  const other = { ...VM_CONFIG, kernelParams: ["debug"] };
  await rejection(poolClient(pool.options.endpoint).getBaseVm(other, never));
  await pool.seen("ready", 3);
  fixture.script({ launch: { rehearse: "error" } });
  const [idle] = (await pool.status()).idle;
  if (idle === undefined) throw new Error("no idle vm");
  process.kill(idle.sandboxPid, "SIGKILL");
  await pool.seen("lost");
  await pool.seen("failed", 3);
  fixture.script({});
  await pool.seen("ready", 4);

  const after = await values();
  expect(after("hearth_pool_hits_total", SHAPE)).toBe(1);
  expect(after("hearth_pool_misses_total", { reason: "mismatch" })).toBe(1);
  expect(after("hearth_pool_claim_seconds_count", SHAPE)).toBe(1);
  expect(after("hearth_pool_claim_seconds_bucket", { ...SHAPE, le: "+Inf" })).toBe(1);
  expect(after("hearth_pool_claimed_vm_age_seconds_count", SHAPE)).toBe(1);
  expect(after("hearth_pool_vms_in_use", { state: "leased" })).toBe(1);
  expect(after("hearth_pool_ended_vms_total", { ...SHAPE, reason: "lost" })).toBe(1);
  expect(after("hearth_pool_boot_seconds_count", SHAPE)).toBe(4);
  const { bootFailures } = await pool.status();
  expect(bootFailures).toBeGreaterThanOrEqual(2);
  expect(after("hearth_pool_boot_failures_total", { ...SHAPE, step: "rehearse" })).toBe(bootFailures);

  const loopback = await fetch(`http://127.0.0.1:${port}/metrics`);
  expect(await loopback.text()).toContain("hearth_pool_info{");
  expect((await fetch(`http://127.0.0.1:${port}/other`)).status).toBe(404);
  expect((await fetch(`http://127.0.0.1:${port}/metrics`, { method: "POST" })).status).toBe(405);

  process.kill(vm.sandbox.pid);
  await pool.stop();
  expect(existsSync(endpoint)).toBe(false);
  expect(await rejection(fetch(`http://127.0.0.1:${port}/metrics`))).toBeInstanceOf(Error);
});

test("VMs taken over from a server that was killed are counted", async () => {
  using fixture = sandboxFixture();
  await using first = new PoolProcess(fixture, { number: 2 });
  await first.seen("ready", 2);
  first.child.kill(9);
  await first.child.exited;
  const endpoint = `${fixture.runDir}/metrics.sock`;
  await using second = new PoolInProcess(fixture, { number: 2, metrics: { endpoint, port: 0 } });
  await second.seen("listening");
  const families = await parseMetrics(await pageOf(endpoint));
  expect(sampleValue(families, "hearth_pool_adopted_vms_total")).toBe(2);
  expect(sampleValue(families, "hearth_pool_boot_seconds_count", SHAPE)).toBeUndefined();
});

test("a place for metrics that cannot be had does not keep the pool from serving", async () => {
  using fixture = sandboxFixture();
  const endpoint = `${fixture.dir}/none/metrics.sock`;
  await using pool = new PoolInProcess(fixture, { number: 1, metrics: { endpoint, port: 0 } });
  await pool.seen("ready");
  expect((await pool.status()).idle.length).toBe(1);
});

/** With the suffixes of its samples, as queries name it. */
function namesOfSamples(name: string, type: string): string[] {
  return type === "histogram" ? ["_bucket", "_sum", "_count"].map((suffix) => `${name}${suffix}`) : [name];
}

test("every family is on the page as it is defined", async () => {
  using fixture = sandboxFixture();
  const endpoint = `${fixture.runDir}/metrics.sock`;
  await using pool = new PoolInProcess(fixture, { number: 1, metrics: { endpoint, port: 0 } });
  await pool.seen("ready");
  const families: ParsedFamily[] = await parseMetrics(await pageOf(endpoint));
  const counterless = (name: string): string => name.replace(/_total$/, "");
  for (const { name, type, help, samples } of families) {
    const [, defined] = Object.entries(METRICS).find(([known]) => counterless(known) === name) ?? [];
    expect({ name, type: defined?.type, help: defined?.help }).toEqual({
      name,
      type: type as never,
      help: help as never,
    });
    const labels = new Set(samples.flatMap((sample) => Object.keys(sample.labels)));
    labels.delete("le");
    expect([...labels].sort()).toEqual([...(defined?.labels ?? [])].sort());
  }
});

test("docs/METRICS.md has every metric with its type and labels, and no other", () => {
  const page = readFileSync(join(REPOSITORY, "docs/METRICS.md"), "utf8");
  const documented = [...page.matchAll(/^\| `(hearth_\w+)` +\| (\w+) +\| (.*?) *\|/gm)].map(
    ([, name, type, labels]) => ({
      name,
      type,
      labels: [...(labels ?? "").matchAll(/`(\w+)`/g)].map(([, label]) => label),
    }),
  );
  expect(documented).toEqual(
    Object.entries(METRICS).map(([name, { type, labels }]) => ({ name, type, labels: [...labels] })),
  );
});

test("the dashboard asks for metrics and labels that exist, and for all of them", () => {
  const dashboard = JSON.parse(readFileSync(join(REPOSITORY, "packaging/grafana/hearth-pool.json"), "utf8")) as {
    panels: { title: string; targets: { expr: string }[] }[];
  };
  const known = new Map(
    Object.entries(METRICS).flatMap(([name, { type, labels }]) =>
      namesOfSamples(name, type).map((sample) => [sample, { name, labels: [...labels, "instance"] as string[] }]),
    ),
  );
  const asked = new Set<string>();
  for (const { title, targets } of dashboard.panels) {
    for (const { expr } of targets) {
      for (const [, name = "", selector = ""] of expr.matchAll(/\b(hearth_\w+)(?:\{([^}]*)\})?/g)) {
        const metric = known.get(name);
        expect({ title, name, exists: metric !== undefined }).toEqual({ title, name, exists: true });
        asked.add(metric?.name ?? "");
        for (const [, label = ""] of selector.matchAll(/(\w+)\s*=/g)) expect(metric?.labels).toContain(label);
      }
    }
  }
  expect([...asked].sort()).toEqual(Object.keys(METRICS).sort());
});
