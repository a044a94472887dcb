/** The pool's metrics: what each is called and means, what is counted as it happens, and the page for Prometheus. */
import type { SlotState, SlotStatus } from "../factory/cache-slot.ts";
import type { VmPool } from "../factory/vm-pool.ts";
import { Counter, type Family, formatFamilies, Histogram, type Sample } from "../util/prometheus.ts";
import { COMMIT, VERSION } from "../version.ts";
import { livingVms } from "./living-vms.ts";
import type { PoolEvent } from "./pool-event.ts";
import { type VmMemory, VmMemorySampler } from "./vm-memory.ts";

interface Definition {
  readonly type: Family["type"];
  readonly help: string;
  readonly labels: readonly string[];
}

/** docs/METRICS.md explains each; a test compares. */
export const METRICS = {
  hearth_pool_info: { type: "gauge", help: "Version of the pool server.", labels: ["version"] },
  hearth_pool_start_time_seconds: { type: "gauge", help: "When the server started, since the epoch.", labels: [] },
  hearth_pool_config_refused: {
    type: "gauge",
    help: "1 while the configuration that is there cannot be used and the one before still holds.",
    labels: [],
  },
  hearth_pool_wanted_vms: { type: "gauge", help: "VMs to be kept ready.", labels: ["shape"] },
  hearth_pool_slots: { type: "gauge", help: "Places for VMs, by what they do.", labels: ["shape", "state"] },
  hearth_pool_waiting_claims: { type: "gauge", help: "Claims that wait for a VM.", labels: ["shape"] },
  hearth_pool_vms_in_use: { type: "gauge", help: "VMs given away that live on this host.", labels: ["state"] },
  hearth_pool_hits_total: { type: "counter", help: "Claims that got a VM.", labels: ["shape"] },
  hearth_pool_misses_total: { type: "counter", help: "Claims that got none.", labels: ["reason"] },
  hearth_pool_claim_seconds: { type: "histogram", help: "From a claim to its VM.", labels: ["shape"] },
  hearth_pool_claimed_vm_age_seconds: {
    type: "histogram",
    help: "How long a VM was ready when it was given away.",
    labels: ["shape"],
  },
  hearth_pool_boot_seconds: {
    type: "histogram",
    help: "From the start of a VM, booted or cloned, until it was ready.",
    labels: ["shape"],
  },
  hearth_pool_boot_failures_total: {
    type: "counter",
    help: "VMs that did not get ready, by the step that failed.",
    labels: ["shape", "step"],
  },
  hearth_pool_check_seconds: { type: "histogram", help: "Checks of idle VMs that went well.", labels: ["shape"] },
  hearth_pool_ended_vms_total: {
    type: "counter",
    help: "Idle VMs that died or failed a check, grew too old, or were not wanted any more.",
    labels: ["shape", "reason"],
  },
  hearth_pool_adopted_vms_total: { type: "counter", help: "Idle VMs taken over from an earlier server.", labels: [] },
  hearth_pool_host_suspensions_total: {
    type: "counter",
    help: "Times that the host had been asleep.",
    labels: [],
  },
  hearth_pool_idle_vm_age_seconds: {
    type: "gauge",
    help: "Since when the oldest and the youngest idle VM are ready.",
    labels: ["shape", "which"],
  },
  hearth_pool_promised_memory_bytes: {
    type: "gauge",
    help: "Memory that the pool's VMs may use at most: their sizes together.",
    labels: [],
  },
  hearth_pool_memory_limit_bytes: { type: "gauge", help: "Bound of the promised memory; 0: none.", labels: [] },
  hearth_pool_vm_memory_bytes: {
    type: "gauge",
    help: "Proportional set size of the VMs' processes, measured at most once a minute.",
    labels: ["state", "process"],
  },
  hearth_pool_server_cpu_seconds_total: { type: "counter", help: "CPU time of the pool server.", labels: [] },
  hearth_pool_server_memory_bytes: { type: "gauge", help: "Resident memory of the pool server.", labels: [] },
} as const satisfies Readonly<Record<string, Definition>>;

export type MetricName = keyof typeof METRICS;

const CLAIM_BOUNDS_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const AGE_BOUNDS_S = [1, 10, 60, 600, 3600, 21_600, 86_400];
const BOOT_BOUNDS_S = [0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60];
const CHECK_BOUNDS_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const BYTES_PER_MIB = 1024 * 1024;

const SLOT_STATES: Readonly<Record<SlotState["kind"], true>> = {
  empty: true,
  booting: true,
  "backing-off": true,
  idle: true,
  checking: true,
  leasing: true,
  ending: true,
};

/** Counts what the pool does; hears every event from the first on. */
export class PoolObserver {
  readonly hits = new Counter();
  readonly claimSeconds = new Histogram(CLAIM_BOUNDS_S);
  readonly claimedAgeSeconds = new Histogram(AGE_BOUNDS_S);
  readonly bootSeconds = new Histogram(BOOT_BOUNDS_S);
  readonly bootFailures = new Counter();
  readonly checkSeconds = new Histogram(CHECK_BOUNDS_S);
  readonly ended = new Counter();
  readonly adopted = new Counter();
  /** Step of each boot that is under way, by shape and slot. */
  readonly #steps = new Map<string, string>();

  onEvent(event: PoolEvent): void {
    switch (event.kind) {
      case "booting":
        this.#steps.set(`${event.shape}/${event.slot}`, "launch");
        return;
      case "step":
        this.#steps.set(`${event.shape}/${event.slot}`, event.step);
        return;
      case "ready":
        this.#steps.delete(`${event.shape}/${event.slot}`);
        this.bootSeconds.observe(event.bootMs / 1000, { shape: event.shape });
        return;
      case "failed":
        this.#failed(event.shape, event.slot);
        return;
      case "handed-out":
        this.hits.increment({ shape: event.shape });
        this.claimSeconds.observe(event.waitMs / 1000, { shape: event.shape });
        this.claimedAgeSeconds.observe(event.ageMs / 1000, { shape: event.shape });
        return;
      case "checked":
        this.checkSeconds.observe(event.checkMs / 1000, { shape: event.shape });
        return;
      case "lost":
      case "retired":
      case "drained":
        this.ended.increment({ shape: event.shape, reason: event.kind });
        return;
      case "adopted":
        this.adopted.increment();
        return;
      case "listening":
      case "configured":
      case "config-refused":
      case "stopping":
        return;
    }
  }

  /** A slot backs off after a boot that failed, and after a VM that did not live long: that is no failed boot. */
  #failed(shape: string, slot: number): void {
    const step = this.#steps.get(`${shape}/${slot}`);
    if (step === undefined) return;
    this.#steps.delete(`${shape}/${slot}`);
    this.bootFailures.increment({ shape, step });
  }
}

export interface MetricsParts {
  readonly pool: VmPool;
  readonly observer: PoolObserver;
  readonly runDir: string;
  readonly startedAtMs: number;
  readonly configError: () => string | undefined;
}

/** Makes the page anew at each call. */
export function poolMetrics(parts: MetricsParts): () => Promise<string> {
  const sampler = new VmMemorySampler(parts.runDir);
  return async () => {
    const memory = await sampler.current();
    const samples = samplesOf(parts, memory, Date.now());
    const names = Object.keys(METRICS) as MetricName[];
    return formatFamilies(names.map((name) => ({ name, ...METRICS[name], samples: samples[name] })));
  };
}

const one = (value: number): Sample[] => [{ labels: {}, value }];

function samplesOf(
  { pool, observer, runDir, startedAtMs, configError }: MetricsParts,
  memory: readonly VmMemory[],
  now: number,
): Record<MetricName, readonly Sample[]> {
  const { shapes, slots, counters, settings } = pool;
  const inUse = livingVms(runDir, ["leased", "adopted"]);
  const { user, system } = process.cpuUsage();
  return {
    hearth_pool_info: [{ labels: { version: `${VERSION} ${COMMIT}` }, value: 1 }],
    hearth_pool_start_time_seconds: one(startedAtMs / 1000),
    hearth_pool_config_refused: one(configError() === undefined ? 0 : 1),
    hearth_pool_wanted_vms: shapes.map(({ name, number }) => ({ labels: { shape: name }, value: number })),
    hearth_pool_slots: shapes.flatMap(({ name }) => slotSamples(name, slots)),
    hearth_pool_waiting_claims: shapes.map(({ name, waiting }) => ({ labels: { shape: name }, value: waiting })),
    hearth_pool_vms_in_use: ["leased", "adopted"].map((state) => ({
      labels: { state },
      value: inUse.filter((record) => record.state === state).length,
    })),
    hearth_pool_hits_total: observer.hits.samples,
    hearth_pool_misses_total: Object.entries(counters.misses).map(([reason, value]) => ({ labels: { reason }, value })),
    hearth_pool_claim_seconds: observer.claimSeconds.samples,
    hearth_pool_claimed_vm_age_seconds: observer.claimedAgeSeconds.samples,
    hearth_pool_boot_seconds: observer.bootSeconds.samples,
    hearth_pool_boot_failures_total: observer.bootFailures.samples,
    hearth_pool_check_seconds: observer.checkSeconds.samples,
    hearth_pool_ended_vms_total: observer.ended.samples,
    hearth_pool_adopted_vms_total: observer.adopted.samples,
    hearth_pool_host_suspensions_total: one(counters.suspensions),
    hearth_pool_idle_vm_age_seconds: shapes.flatMap(({ name }) => ageSamples(name, slots, now)),
    hearth_pool_promised_memory_bytes: one(pool.memoryMib * BYTES_PER_MIB),
    hearth_pool_memory_limit_bytes: one(settings.memoryMaxMib * BYTES_PER_MIB),
    hearth_pool_vm_memory_bytes: memory.map(({ state, process, bytes }) => ({
      labels: { state, process },
      value: bytes,
    })),
    hearth_pool_server_cpu_seconds_total: one((user + system) / 1e6),
    hearth_pool_server_memory_bytes: one(process.memoryUsage.rss()),
  };
}

function slotSamples(shape: string, slots: readonly SlotStatus[]): Sample[] {
  const ours = slots.filter((slot) => slot.shape === shape);
  return Object.keys(SLOT_STATES).map((state) => ({
    labels: { shape, state },
    value: ours.filter((slot) => slot.state === state).length,
  }));
}

/** None while no VM of the shape is idle. */
function ageSamples(shape: string, slots: readonly SlotStatus[], now: number): Sample[] {
  const ages = slots.flatMap(({ shape: name, state, vm }) =>
    name === shape && vm !== undefined && (state === "idle" || state === "checking")
      ? [Math.max(0, now - vm.readyAtMs) / 1000]
      : [],
  );
  if (ages.length === 0) return [];
  return [
    { labels: { shape, which: "oldest" }, value: Math.max(...ages) },
    { labels: { shape, which: "youngest" }, value: Math.min(...ages) },
  ];
}
