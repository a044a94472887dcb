/** A dockerd of a test's own, on a containerd of its own, in a network namespace of its own; the runtime is its default. */
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { unmount } from "../../src/sys/mount.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { makeRootfs } from "./busybox.ts";
import { removeEmptyCgroups } from "./cgroups.ts";
import { startContainerd } from "./containerd.ts";
import { type EngineNetns, makeEngineNetns } from "./netns.ts";
import { mustRunProgram, PATH, type ProgramOptions, type ProgramResult, runProgram } from "./program.ts";
import { TerminalSession } from "./terminal.ts";

export const DOCKER_IMAGE = "busybox:latest";
/** Debian's, and not another that is found first: it has to fit the daemon. */
const DOCKER = "/usr/bin/docker";
const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 20_000;
/** What dockerd logs when its socket answers. */
const READY = "API listen on";

export interface Docker extends AsyncDisposable {
  docker(args: readonly string[], options?: ProgramOptions): Promise<ProgramResult>;
  /** As `docker`, failing for any status but 0; returns standard output. */
  must(args: readonly string[], options?: ProgramOptions): Promise<string>;
  /** `docker-compose`, failing for any status but 0; returns standard output. */
  compose(args: readonly string[], cwd: string): Promise<string>;
  atTerminal(args: readonly string[]): TerminalSession;
  /** Where published ports are. */
  readonly netns: EngineNetns;
  log(): string;
  /** Containers there are. */
  left(): Promise<string[]>;
  /** Removes them all. */
  clean(): Promise<void>;
}

export async function startDocker(dir: string, runtimePath: string): Promise<Docker> {
  mkdirSync(dir, { recursive: true });
  await using undo = new AsyncDisposableStack();
  const netns = undo.use(await makeEngineNetns());
  const containerd = undo.use(await startContainerd(join(dir, "containerd"), { netns, image: false }));
  const cgroupParent = `hearth-test-${randomBytes(4).toString("hex")}`;
  undo.defer(() => removeEmptyCgroups(cgroupParent));
  const socket = `unix://${join(dir, "docker.sock")}`;
  const logPath = join(dir, "dockerd.log");
  const config = join(dir, "daemon.json");
  writeFileSync(config, JSON.stringify({ "deprecated-key-path": join(dir, "key.json") }));
  const flags = ["--config-file", config, "--host", socket, "--containerd", containerd.socket];
  flags.push("--data-root", join(dir, "data"), "--exec-root", join(dir, "exec"), "--pidfile", join(dir, "pid"));
  flags.push("--add-runtime", `hearth=${runtimePath}`, "--default-runtime", "hearth");
  flags.push("--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", `/${cgroupParent}`);
  // It mounts its directory on itself and, where "/" is not the root of a file system, forgets that when it ends.
  undo.defer(() => void unmount(join(dir, "data")));
  // The host's network namespace, which it keeps from the first container that asks for it.
  undo.defer(() => void unmount(join(dir, "exec/netns/default")));
  const child = Bun.spawn(netns.inside(["dockerd", ...flags]), {
    env: { PATH, TMPDIR: dir },
    cwd: "/",
    stdin: "ignore",
    stdout: "ignore",
    stderr: Bun.file(logPath),
  });
  undo.defer(async () => {
    child.kill("SIGTERM");
    const killer = setTimeout(() => child.kill("SIGKILL"), STOP_TIMEOUT_MS);
    await child.exited;
    clearTimeout(killer);
  });
  const log = (): string => `${readFileSync(logPath, "utf8")}${containerd.log()}`;
  await listening(child, () => readFileSync(logPath, "utf8"));
  const env = { DOCKER_HOST: socket, DOCKER_CONFIG: dir, HOME: dir };
  const withEnv = (options: ProgramOptions = {}): ProgramOptions => ({ ...options, env: { ...env, ...options.env } });
  const docker: Docker["docker"] = (args, options) => runProgram([DOCKER, ...args], withEnv(options));
  const must: Docker["must"] = async (args, options) =>
    (await mustRunProgram([DOCKER, ...args], withEnv(options))).stdout;
  const left = async (): Promise<string[]> => {
    const names = await must(["ps", "--all", "--format", "container {{.Names}}"]);
    return names.split("\n").filter((line) => line !== "");
  };
  const clean = async (): Promise<void> => {
    for (const line of await left()) await docker(["rm", "--force", line.replace("container ", "")]);
  };
  undo.defer(clean);
  await importImage(dir, must);
  const owned = undo.move();
  return {
    docker,
    must,
    compose: async (args, cwd) => (await mustRunProgram(["docker-compose", ...args], withEnv({ cwd }))).stdout,
    atTerminal: (args) => new TerminalSession([DOCKER, ...args], { env }),
    netns,
    log,
    left,
    clean,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function listening(child: Bun.Subprocess, log: () => string): Promise<void> {
  const deadline = performance.now() + START_TIMEOUT_MS;
  while (!log().includes(READY)) {
    if (child.exitCode !== null) throw new Error(`dockerd ended with status ${child.exitCode}\n${log()}`);
    if (performance.now() > deadline) throw new Error(`dockerd does not answer in time\n${log()}`);
    await Bun.sleep(100);
  }
}

async function importImage(dir: string, must: Docker["must"]): Promise<void> {
  const rootfs = join(dir, "rootfs");
  const archive = join(dir, "image.tar");
  await makeRootfs(rootfs);
  await runOrThrow(["tar", "--create", "--file", archive, "--owner=0", "--group=0", "--directory", rootfs, "."]);
  await must(["import", "--change", 'CMD ["sh"]', "--change", "ENV PATH=/bin:/usr/bin", archive, DOCKER_IMAGE]);
}
