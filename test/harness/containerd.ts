/** A containerd of a test's own: own root, state and socket, one image made from busybox-static, no network. */
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeImageArchive } from "./busybox.ts";
import { removeEmptyCgroups } from "./cgroups.ts";
import { processesUsing } from "./leftovers.ts";
import type { EngineNetns } from "./netns.ts";
import { mustRunProgram, PATH, type ProgramOptions, type ProgramResult, runProgram } from "./program.ts";

export const TEST_IMAGE = "hearth.test/busybox:latest";
const CRI_PLUGIN = "io.containerd.grpc.v1.cri";
/** Plug-ins that need kernel modules or daemons which a test has no use for. */
const DISABLED_PLUGINS = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
];
/** What containerd says when its socket answers. */
const BOOTED = "containerd successfully booted";
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 10_000;

export interface Containerd extends AsyncDisposable {
  readonly socket: string;
  readonly namespace: string;
  /** Runs `ctr` in the test's namespace. */
  ctr(args: readonly string[], options?: ProgramOptions): Promise<ProgramResult>;
  /** As `ctr`, failing for any status but 0. */
  mustCtr(args: readonly string[], options?: ProgramOptions): Promise<ProgramResult>;
  /** What containerd and its shims logged. */
  log(): string;
}

export interface ContainerdOptions {
  /** What runtimes see that containerd starts. */
  readonly env?: Readonly<Record<string, string>>;
  /** The network namespace it runs in. Default: ours. */
  readonly netns?: EngineNetns;
  /** Sections of its configuration for the CRI plug-in, which is off without them. */
  readonly criConfig?: readonly string[];
  /** Whether the test image is imported. Default true. */
  readonly image?: boolean;
}

/** `dir` is the caller's and removed by it. */
export async function startContainerd(dir: string, options: ContainerdOptions = {}): Promise<Containerd> {
  mkdirSync(dir, { recursive: true });
  const { env, netns, criConfig } = options;
  // Its own: the runtime makes a cgroup of this name, which engines leave behind. That of CRI is fixed.
  const namespace = criConfig === undefined ? `hearth-test-${randomBytes(4).toString("hex")}` : "k8s.io";
  const socket = join(dir, "c.sock");
  const config = join(dir, "containerd.toml");
  const logPath = join(dir, "containerd.log");
  writeFileSync(
    config,
    [
      "version = 2",
      `root = ${JSON.stringify(join(dir, "root"))}`,
      `state = ${JSON.stringify(join(dir, "state"))}`,
      `disabled_plugins = ${JSON.stringify(criConfig === undefined ? [CRI_PLUGIN, ...DISABLED_PLUGINS] : DISABLED_PLUGINS)}`,
      "[grpc]",
      `address = ${JSON.stringify(socket)}`,
      "[debug]",
      'level = "debug"',
      ...(criConfig ?? []),
      "",
    ].join("\n"),
  );
  const argv = ["containerd", "--config", config];
  const child = Bun.spawn(netns === undefined ? argv : netns.inside(argv), {
    env: { PATH, TMPDIR: dir, ...env },
    cwd: "/",
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
  });
  const booted = Promise.withResolvers<void>();
  const drained = drainLog(child.stderr, logPath, booted.resolve);
  const timer = setTimeout(() => booted.reject(new Error("containerd did not boot in time")), START_TIMEOUT_MS);
  child.exited.then((status) => booted.reject(new Error(`containerd ended with status ${status}`)));
  const log = (): string => readFileSync(logPath, "utf8");
  const base = ["ctr", "--address", socket, "--namespace", namespace];
  const stop = async (): Promise<void> => {
    if (child.exitCode === null) await removeContainers(base);
    child.kill("SIGTERM");
    const killer = setTimeout(() => child.kill("SIGKILL"), STOP_TIMEOUT_MS);
    await child.exited;
    clearTimeout(killer);
    // A shim that outlived its container holds the pipe; it is reported by whoever looks for leftovers.
    await Promise.race([drained, Bun.sleep(processesUsing(dir).length === 0 ? STOP_TIMEOUT_MS : 0)]);
    removeEmptyCgroups(namespace);
  };
  try {
    await booted.promise;
  } catch (thrown) {
    await stop();
    throw new Error(`${thrown}\n${log()}`, { cause: thrown });
  } finally {
    clearTimeout(timer);
  }
  const containerd: Containerd = {
    socket,
    namespace,
    ctr: (args, options) => runProgram([...base, ...args], options),
    mustCtr: (args, options) => mustRunProgram([...base, ...args], options),
    log,
    [Symbol.asyncDispose]: stop,
  };
  if (options.image === false) return containerd;
  try {
    const archive = join(dir, "image.tar");
    await makeImageArchive(archive, TEST_IMAGE, join(dir, "image"));
    await containerd.mustCtr(["images", "import", archive]);
  } catch (thrown) {
    await stop();
    throw thrown;
  }
  return containerd;
}

async function drainLog(stream: ReadableStream<Uint8Array>, path: string, onBooted: () => void): Promise<void> {
  const writer = Bun.file(path).writer();
  const decoder = new TextDecoder();
  let seen = "";
  for await (const chunk of stream) {
    writer.write(chunk);
    await writer.flush();
    if (seen.includes(BOOTED)) continue;
    seen += decoder.decode(chunk, { stream: true });
    if (seen.includes(BOOTED)) onBooted();
  }
  await writer.end();
}

/** A test that failed half-way leaves containers; a shim would keep running and its mounts stay. */
async function removeContainers(base: readonly string[]): Promise<void> {
  const { stdout } = await runProgram([...base, "containers", "list", "--quiet"]);
  for (const id of stdout.split("\n").filter((line) => line !== "")) {
    await runProgram([...base, "tasks", "kill", "--signal", "SIGKILL", id]);
    await runProgram([...base, "tasks", "delete", "--force", id]);
    await runProgram([...base, "containers", "delete", id]);
  }
}
