/** What clones cost beside booted VMs: their start alone, until they are ready in a pool, and the memory of an idle one. */
import { readFileSync } from "node:fs";
import { type Hearth, withHearth } from "../test/harness/hearth.ts";
import { startPool, vmRecords } from "../test/harness/pool.ts";
import { PATH } from "../test/harness/program.ts";
import { firstOutput, type Samples, summarize, TRIMMED_MS } from "./measure.ts";

const STARTS = 7;
/** VMs of the pools: what clones have in common is shared by so many. */
const POOL_SIZES = { booted: 3, clones: 10 } as const;
const KIB_PER_MIB = 1024;

export interface TemplateReport {
  time(name: string, samples: Samples, ratios?: Readonly<Record<string, number>>): void;
  memory(name: string, mib: number): void;
}

export async function measureTemplates(report: TemplateReport): Promise<void> {
  const booted = await pooled("virtio-9p", false);
  report.time("pool of booted VMs: a VM ready, one at a time", booted.ready);
  for (const [sharedFs, kind] of [
    ["virtio-9p", "copy-on-write"],
    ["virtio-fs", "copied"],
  ] as const) {
    const { cold, clone } = await alone(sharedFs);
    report.time(`${kind} clone alone: run to first output`, clone, {
      [`cold over ${sharedFs}`]: clone.median / cold.median,
    });
    const { ready, memory } = await pooled(sharedFs, true);
    report.time(`pool of ${kind} clones: one ready`, ready, { "a booted VM": ready.median / booted.ready.median });
    report.memory(`PSS of an idle ${kind} clone, ${POOL_SIZES.clones} in the pool`, memory.vmMib);
    report.memory("PSS of its sandbox process", memory.sandboxMib);
    report.memory("the template, once for all", memory.templateMib);
  }
}

/** Cold and cloned starts by turns, so that what else the machine does meets both. */
async function alone(
  sharedFs: "virtio-9p" | "virtio-fs",
): Promise<{ readonly cold: Samples; readonly clone: Samples }> {
  const cold: number[] = [];
  const clone: number[] = [];
  await withHearth(
    { config: { hypervisor: { shared_fs: sharedFs }, runtime: { log_level: "warn" } } },
    async (hearth) => {
      const config = hearth.configWith({ factory: { enable_template: true } });
      await init(hearth, config);
      const bundle = await hearth.bundle({ args: ["echo", "hello"] });
      const run = (id: string, path: string) =>
        firstOutput({
          argv: [hearth.runtimePath, "--config", path, "run", "--bundle", bundle, id],
          argv0: "hearth-runtime",
          env: { PATH, ...hearth.env },
        });
      for (let index = 0; index <= STARTS; index++) {
        const times = [await run(`cold-${index}`, hearth.configPath), await run(`clone-${index}`, config)] as const;
        // The first of each is a warm-up.
        if (index === 0) continue;
        cold.push(times[0]);
        clone.push(times[1]);
      }
    },
  );
  return { cold: summarize(cold), clone: summarize(clone) };
}

async function init(hearth: Hearth, config: string): Promise<void> {
  const { status, stderr } = await hearth.run(["--config", config, "template", "init"]);
  if (status !== 0) throw new Error(`template init: ${stderr}`);
}

interface PoolCost {
  /** From the start of a VM's sandbox process until it is idle, by the server's log. */
  readonly ready: Samples;
  readonly memory: { readonly vmMib: number; readonly sandboxMib: number; readonly templateMib: number };
}

async function pooled(sharedFs: "virtio-9p" | "virtio-fs", isCloned: boolean): Promise<PoolCost> {
  const size = isCloned ? POOL_SIZES.clones : POOL_SIZES.booted;
  const factory = { enable_template: isCloned, vm_cache_boots_at_once: 1 };
  const runtime = { log_level: "info" } as const;
  let cost: PoolCost | undefined;
  await withHearth({ config: { hypervisor: { shared_fs: sharedFs }, factory, runtime } }, async (hearth) => {
    if (isCloned) await init(hearth, hearth.configPath);
    await using pool = startPool(hearth, size);
    await pool.idle(size);
    await Bun.sleep(TRIMMED_MS);
    const memory = { ...idleMemory(hearth), templateMib: isCloned ? await templateMib(hearth) : 0 };
    await pool.stop();
    const times = [...pool.log().matchAll(/msg="vm ready".* bootMs=(\d+)/g)].map(([, ms]) => Number(ms));
    cost = { ready: summarize(times), memory };
  });
  if (cost === undefined) throw new Error("the pool was not measured");
  return cost;
}

/** What its files take. */
async function templateMib(hearth: Hearth): Promise<number> {
  const { stdout } = await hearth.run(["template", "status", "--json"]);
  const { templates } = JSON.parse(stdout) as { readonly templates: readonly { readonly allocatedBytes: number }[] };
  return sum(templates.map(({ allocatedBytes }) => allocatedBytes)) / 1024 / KIB_PER_MIB;
}

/** Of one VM on average, the template's pages left out. */
function idleMemory(hearth: Hearth): { readonly vmMib: number; readonly sandboxMib: number } {
  const idle = vmRecords(hearth.runDir).filter(({ state }) => state === "idle");
  const processes = idle.flatMap(({ sandbox, processes: others }) => [sandbox, ...others]);
  const all = sum(processes.map(({ pid }) => pssKib(pid)));
  const template = sum(processes.map(({ pid }) => templateKib(pid)));
  const sandboxes = sum(idle.map(({ sandbox }) => pssKib(sandbox.pid)));
  return {
    vmMib: (all - template) / idle.length / KIB_PER_MIB,
    sandboxMib: sandboxes / idle.length / KIB_PER_MIB,
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function pssKib(pid: number): number {
  return Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1]);
}

/** What a process has mapped of a template's memory without having written to it. */
function templateKib(pid: number): number {
  const mapping = readFileSync(`/proc/${pid}/smaps`, "utf8").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const field = (text: string, name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0);
  const ofTemplate = mapping.filter((text) => /\/template\/.*vm\.mem$/m.test(text.split("\n")[0] ?? ""));
  return sum(ofTemplate.map((text) => field(text, "Pss") - field(text, "Anonymous")));
}
