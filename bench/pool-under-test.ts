/** A pool of one kind of VM, and what it costs the host while nobody uses it. */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CacheService } from "../src/gen/cache_pb.ts";
import { defaultMetricsSocket, defaultTemplateDir } from "../src/paths.ts";
import { createGrpcClient, GrpcClient, type GrpcClientOf } from "../src/rpc/grpc.ts";
import { proportionalSetBytes } from "../src/sys/memory.ts";
import { type ConfigOverrides, type Hearth, openHearth } from "../test/harness/hearth.ts";
import { startPool, vmRecords } from "../test/harness/pool.ts";

export type Kind = "booted" | "copied clone" | "copy-on-write clone";
export const KINDS: readonly Kind[] = ["booted", "copied clone", "copy-on-write clone"];

const CONFIG: Readonly<Record<Kind, ConfigOverrides>> = {
  booted: { hypervisor: { shared_fs: "virtio-fs" } },
  "copied clone": { hypervisor: { shared_fs: "virtio-fs" }, factory: { enable_template: true } },
  "copy-on-write clone": { hypervisor: { shared_fs: "virtio-9p" }, factory: { enable_template: true } },
};

/** Nobody adopts what is claimed here: this soon it is gone. */
const LEASE_MS = 1000;
const CALL_TIMEOUT_MS = 10_000;
const LOOK_INTERVAL_MS = 20;
const MIB = 1024 * 1024;

export interface PoolUnderTest {
  readonly hearth: Hearth;
  readonly number: number;
  readonly cache: GrpcClientOf<typeof CacheService>;
  /** Seconds from the start of the server until it was full for the first time; a template was there before. */
  readonly fillSeconds: number;
  /** Resolves when the server says that so many VMs are idle; default: all. */
  full(count?: number): Promise<void>;
  /** Has every VM checked at least once, and then as rarely as by default again; returns how many checks that took. */
  checkAll(): Promise<number>;
  /** Processes by what they are. */
  processes(): ReadonlyMap<string, readonly number[]>;
}

export async function withPool(
  kind: Kind,
  number: number,
  measure: (pool: PoolUnderTest) => Promise<void>,
): Promise<void> {
  const { hypervisor, factory } = CONFIG[kind];
  const opened = openHearth({
    config: {
      hypervisor: { ...hypervisor },
      factory: { vm_cache_lease_ms: LEASE_MS, ...factory },
      runtime: { log_level: "warn" },
    },
  });
  try {
    const { hearth } = opened;
    if (kind !== "booted") {
      const made = await hearth.run(["template", "init"]);
      if (made.status !== 0) throw new Error(`template init: ${made.stderr}`);
    }
    await measureIn(hearth, number, measure);
  } catch (thrown) {
    process.stderr.write(opened.describe());
    throw thrown;
  } finally {
    await opened.close();
  }
}

async function measureIn(
  hearth: Hearth,
  number: number,
  measure: (pool: PoolUnderTest) => Promise<void>,
): Promise<void> {
  const startedAt = performance.now();
  await using pool = startPool(hearth, number);
  await pool.idle(1);
  await using client = new GrpcClient(hearth.endpoint);
  const cache = createGrpcClient(CacheService, client);
  const full = async (count = number): Promise<void> => {
    while ((await cache.status({}, { timeoutMs: CALL_TIMEOUT_MS })).vmstatus.length < count) {
      await Bun.sleep(LOOK_INTERVAL_MS);
    }
  };
  await full();
  const fillSeconds = (performance.now() - startedAt) / 1000;
  await measure({
    hearth,
    number,
    cache,
    fillSeconds,
    full,
    checkAll: () => checkAll(hearth, number),
    processes: () => processesOf(hearth, pool.pid),
  });
}

/** The server follows its configuration file, and checks the most overdue first. */
async function checkAll(hearth: Hearth, number: number): Promise<number> {
  const config = readFileSync(hearth.configPath, "utf8");
  const before = await checksSoFar(hearth);
  writeFileSync(hearth.configPath, config.replace("[factory]\n", "[factory]\nvm_cache_check_interval_s = 1\n"));
  while ((await checksSoFar(hearth)) - before < number) await Bun.sleep(LOOK_INTERVAL_MS);
  writeFileSync(hearth.configPath, config);
  return (await checksSoFar(hearth)) - before;
}

async function checksSoFar(hearth: Hearth): Promise<number> {
  const page = await fetch("http://localhost/metrics", { unix: defaultMetricsSocket(hearth.runDir) });
  return Number(/^hearth_pool_check_seconds_count\{.*\} (\d+)$/m.exec(await page.text())?.[1] ?? 0);
}

function processesOf(hearth: Hearth, serverPid: number): Map<string, number[]> {
  const found = new Map([["server", [serverPid]]]);
  const add = (name: string, pid: number) => found.set(name, [...(found.get(name) ?? []), pid]);
  for (const { sandbox, processes } of vmRecords(hearth.runDir)) {
    add("sandbox", sandbox.pid);
    for (const [index, { pid }] of processes.entries()) add(index === 0 ? "qemu" : "virtiofsd", pid);
  }
  return found;
}

/** MiB by what the processes are, what they share counted once. */
export async function memoryOf(pool: PoolUnderTest): Promise<Map<string, number>> {
  const memory = new Map<string, number>();
  for (const [name, pids] of pool.processes()) {
    let bytes = 0;
    for (const pid of pids) bytes += await proportionalSetBytes(pid);
    memory.set(name, bytes / MIB);
  }
  return memory;
}

/** MiB of the files that clones are made of, which are in memory too; 0 without a template. */
export function templateMib(hearth: Hearth): number {
  const dir = defaultTemplateDir(hearth.runDir);
  if (!existsSync(dir)) return 0;
  const entries = readdirSync(dir, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => statSync(join(entry.parentPath, entry.name)));
  return files.reduce((sum, { blocks }) => sum + blocks * 512, 0) / MIB;
}

/** CPU time of all processes so far, milliseconds. */
export function cpuMsOf(pool: PoolUnderTest): number {
  return [...pool.processes().values()].flat().reduce((sum, pid) => sum + cpuMs(pid), 0);
}

/** Threads that have ended included. Source: proc(5), fields 14 and 15 of /proc/PID/stat, in ticks of 10 ms. */
function cpuMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}
