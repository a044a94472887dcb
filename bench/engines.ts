/** `ctr run` of `true` through a real containerd, without and with a network by CNI: runc, cold, and from a pool. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Containerd, startContainerd, TEST_IMAGE } from "../test/harness/containerd.ts";
import { type Hearth, openHearth } from "../test/harness/hearth.ts";
import { type EngineNetns, makeEngineNetns } from "../test/harness/netns.ts";
import { startPool } from "../test/harness/pool.ts";
import { PATH } from "../test/harness/program.ts";
import { HeldQemu } from "./commands.ts";
import { sample, wholeProcess } from "./measure.ts";
import type { Report } from "./report.ts";

const RUNS = 7;
const CLAIM_TIMEOUT_MS = 30_000;
/** Where Debian's containernetworking-plugins are, and where ctr looks for such and for their configuration. */
const CNI_PLUGINS = "/usr/lib/cni";
const CTR_PLUGINS = "/opt/cni/bin";
const CTR_NETWORKS = "/etc/cni/net.d";
/** What CNI or its configuration writes to; nothing of that reaches the host. */
const COVERED = ["/etc", "/opt", "/var/lib"];

const NETWORKS = [
  ["without a NIC", []],
  ["with a NIC by CNI", ["--cni"]],
] as const;

/** Runs `ctr` of a containerd that looks its network configuration up in a mount namespace of the bench's own. */
type Ctr = (runtime: string, flags: readonly string[]) => Promise<number>;

export async function measureEngines(report: Report): Promise<void> {
  using hold = new HeldQemu();
  const opened = openHearth({ config: { hypervisor: { path: hold.program }, runtime: { log_level: "warn" } } });
  try {
    const { hearth } = opened;
    await using netns = await makeEngineNetns();
    await using containerd = await startContainerd(join(hearth.dir, "containerd"), { env: hearth.env, netns });
    await using place = await makeCtrPlace(hearth.dir, netns);
    await measure(report, hearth, hold, ctrIn(place, containerd));
  } catch (thrown) {
    process.stderr.write(opened.describe());
    throw thrown;
  } finally {
    hold.release();
    await opened.close();
  }
}

async function measure(report: Report, hearth: Hearth, hold: HeldQemu, ctr: Ctr): Promise<void> {
  const base = new Map<string, { readonly runc: number; readonly cold: number }>();
  for (const [name, flags] of NETWORKS) {
    const runc = report.time(`runc: ctr run true, ${name}`, await sample(RUNS, () => ctr("runc", flags)));
    const cold = await sample(RUNS, () => ctr(hearth.runtimePath, flags));
    base.set(name, { runc, cold: report.time(`cold: ctr run true, ${name}`, cold, { runc: cold.median / runc }) });
  }
  // The runtimes find the same file, with the pool in it from now on.
  const pooled = hearth.configWith({ factory: { vm_cache_number: 1, vm_cache_timeout_ms: CLAIM_TIMEOUT_MS } });
  writeFileSync(hearth.configPath, readFileSync(pooled));
  await using pool = startPool(hearth, 1);
  for (const [name, flags] of NETWORKS) {
    for (const refill of ["held back", "competing"]) {
      const warm = await sample(RUNS, async () => {
        hold.release();
        await pool.idle(1);
        if (refill === "held back") hold.hold();
        return await ctr(hearth.runtimePath, flags);
      });
      const { runc = Number.NaN, cold = Number.NaN } = base.get(name) ?? {};
      const ratios = { cold: warm.median / cold, runc: warm.median / runc };
      report.time(`warm: ctr run true, ${name}, refill ${refill}`, warm, ratios);
    }
  }
}

function ctrIn(place: CtrPlace, containerd: Containerd): Ctr {
  let runs = 0;
  return (runtime, flags) => {
    const run = ["run", "--rm", "--runc-binary", runtime, ...flags, TEST_IMAGE, `bench-${++runs}`, "true"];
    const ctr = ["ctr", "--address", containerd.socket, "--namespace", containerd.namespace, ...run];
    return wholeProcess({ argv: ["nsenter", `--target=${place.pid}`, "--mount", "--net", ...ctr], env: { PATH } });
  };
}

interface CtrPlace extends AsyncDisposable {
  /** Of a process in the network namespace, whose mount namespace has CNI where ctr looks for it. */
  readonly pid: number;
}

async function makeCtrPlace(dir: string, netns: EngineNetns): Promise<CtrPlace> {
  const layers = join(dir, "layers");
  const networks = join(dir, "net.d");
  for (const path of [layers, networks]) mkdirSync(path);
  writeFileSync(join(networks, "10-bridge.conflist"), JSON.stringify(networkList(dir)));
  const script = [
    "set -e",
    `mount -t tmpfs tmpfs ${layers}`,
    ...COVERED.flatMap((path, index) => {
      const [upper, work] = [`${layers}/${index}`, `${layers}/${index}-work`];
      const options = `lowerdir=${path},upperdir=${upper},workdir=${work}`;
      return [`mkdir ${upper} ${work}`, `mount -t overlay -o ${options} overlay ${path}`];
    }),
    `mkdir -p ${CTR_PLUGINS} ${CTR_NETWORKS}`,
    `mount --bind ${CNI_PLUGINS} ${CTR_PLUGINS}`,
    `mount --bind ${networks} ${CTR_NETWORKS}`,
    "echo ready",
    "exec cat",
  ].join("\n");
  const child = Bun.spawn(netns.inside(["unshare", "--mount", "--propagation", "private", "sh", "-c", script]), {
    env: { PATH },
    stdio: ["pipe", "pipe", "inherit"],
  });
  const { value } = await child.stdout.getReader().read();
  if (value === undefined) throw new Error("make a mount namespace for ctr: it did not get ready");
  return {
    pid: child.pid,
    [Symbol.asyncDispose]: async () => {
      await child.stdin.end();
      await child.exited;
    },
  };
}

function networkList(dir: string): object {
  const ipam = { type: "host-local", dataDir: join(dir, "addresses"), ranges: [[{ subnet: "10.99.0.0/24" }]] };
  const bridge = { type: "bridge", bridge: "hearth-cni", isGateway: true, ipam };
  return { cniVersion: "0.4.0", name: "hearth-bench", plugins: [bridge] };
}
