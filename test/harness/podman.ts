/** A podman of a test's own: own storage, state, networks and locks, one image made from busybox-static. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeImageArchive } from "./busybox.ts";
import { removeEmptyCgroups } from "./cgroups.ts";
import { describeProcess, processesUsing } from "./leftovers.ts";
import { type EngineNetns, makeEngineNetns } from "./netns.ts";
import { mustRunProgram, PATH, type ProgramOptions, type ProgramResult, runProgram } from "./program.ts";
import { TerminalSession } from "./terminal.ts";
import { until } from "./until.ts";

export const PODMAN_IMAGE = "localhost/busybox:latest";
/** Where Debian's containernetworking-plugins are. */
const CNI_PLUGINS = "/usr/lib/cni";
/** Podman's parent of all cgroups; what another podman has in it is in use. */
const CGROUP_PARENT = "libpod_parent";

export interface Podman extends AsyncDisposable {
  podman(args: readonly string[], options?: ProgramOptions): Promise<ProgramResult>;
  /** As `podman`, failing for any status but 0; returns standard output. */
  must(args: readonly string[], options?: ProgramOptions): Promise<string>;
  /** The command line, for who starts podman itself, with `env`. */
  argv(args: readonly string[]): string[];
  readonly env: Readonly<Record<string, string>>;
  /** Podman at a terminal. */
  atTerminal(args: readonly string[]): TerminalSession;
  /** Where published ports are. */
  readonly netns: EngineNetns;
  /** Containers and pods there are. */
  left(): Promise<string[]>;
  /** Removes them all. */
  clean(): Promise<void>;
}

export async function startPodman(
  dir: string,
  runtimePath: string,
  networkBackend: "netavark" | "cni" = "netavark",
): Promise<Podman> {
  await using undo = new AsyncDisposableStack();
  const netns = undo.use(await makeEngineNetns());
  const env = writeConfiguration(dir, runtimePath, networkBackend);
  const base = netns.inside(["podman", "--root", join(dir, "root"), "--runroot", join(dir, "runroot")]);
  base.push("--tmpdir", join(dir, "tmp"), "--network-config-dir", join(dir, "networks"));
  const withEnv = (options: ProgramOptions = {}): ProgramOptions => ({ ...options, env: { ...env, ...options.env } });
  const podman: Podman["podman"] = (args, options) => runProgram([...base, ...args], withEnv(options));
  const must: Podman["must"] = async (args, options) =>
    (await mustRunProgram([...base, ...args], withEnv(options))).stdout;
  const clean = async (): Promise<void> => {
    await podman(["pod", "rm", "--all", "--force", "--time", "0"]);
    await podman(["rm", "--all", "--force", "--time", "0"]);
  };
  undo.defer(async () => {
    await clean();
    // Conmon and its clean-up command end a moment after the container.
    const noneLeft = (seen: readonly unknown[]): boolean => seen.length === 0;
    await until(async () => processesUsing(dir).map(describeProcess), noneLeft);
    removeEmptyCgroups(CGROUP_PARENT);
  });
  const archive = join(dir, "image.tar");
  await makeImageArchive(archive, PODMAN_IMAGE, join(dir, "image"));
  const id = await must(["pull", "--quiet", `oci-archive:${archive}`]);
  await must(["tag", id.trim(), PODMAN_IMAGE]);
  const owned = undo.move();
  return {
    podman,
    must,
    clean,
    env,
    argv: (args) => [...base, ...args],
    netns,
    atTerminal: (args) => new TerminalSession([...base, ...args], { env }),
    left: async () => {
      const containers = await must(["ps", "--all", "--format", "container {{.Names}}"]);
      const pods = await must(["pod", "ps", "--format", "pod {{.Name}}"]);
      return `${containers}${pods}`.split("\n").filter((line) => line !== "");
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Returns the environment that names it. */
function writeConfiguration(dir: string, runtimePath: string, networkBackend: string): Record<string, string> {
  mkdirSync(dir, { recursive: true });
  if (networkBackend === "cni") writeCniNetwork(dir);
  const containers = join(dir, "containers.conf");
  const storage = join(dir, "storage.conf");
  const lines = [
    "[containers]",
    // The test machine's root may not raise limits.
    'default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]',
    "[engine]",
    'runtime = "hearth"',
    // Podman asks only runtimes it knows for their errors as JSON.
    'runtime_supports_json = ["hearth"]',
    'cgroup_manager = "cgroupfs"',
    'events_logger = "file"',
    'lock_type = "file"',
    "[engine.runtimes]",
    `hearth = [${JSON.stringify(runtimePath)}]`,
    "[network]",
    `network_backend = ${JSON.stringify(networkBackend)}`,
    `cni_plugin_dirs = [${JSON.stringify(CNI_PLUGINS)}]`,
  ];
  writeFileSync(containers, `${lines.join("\n")}\n`);
  const places = [
    `graphroot = ${JSON.stringify(join(dir, "root"))}`,
    `runroot = ${JSON.stringify(join(dir, "runroot"))}`,
  ];
  writeFileSync(storage, `[storage]\ndriver = "overlay"\n${places.join("\n")}\n`);
  return { PATH, CONTAINERS_CONF: containers, CONTAINERS_STORAGE_CONF: storage, TMPDIR: dir, HOME: dir };
}

/** Podman's default network, whose addresses are kept in `dir`. */
function writeCniNetwork(dir: string): void {
  const ranges = [[{ subnet: "10.88.0.0/16", gateway: "10.88.0.1" }]];
  const ipam = { type: "host-local", dataDir: join(dir, "addresses"), ranges, routes: [{ dst: "0.0.0.0/0" }] };
  const bridge = { type: "bridge", bridge: "hearth-cni", isGateway: true, hairpinMode: true, ipam };
  const ports = { type: "portmap", capabilities: { portMappings: true } };
  mkdirSync(join(dir, "networks"));
  const network = { cniVersion: "0.4.0", name: "podman", plugins: [bridge, ports] };
  writeFileSync(join(dir, "networks/87-podman.conflist"), JSON.stringify(network));
}
