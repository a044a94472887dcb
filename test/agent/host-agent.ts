/** Runs the agent on the host for tests: own mount and pid namespaces, a socket pair in place of the port. */
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AgentClient, agentClient } from "../../src/agent/client/client.ts";
import type { ByteStream } from "../../src/sys/byte-stream.ts";
import { O_CREAT, O_WRONLY, openFd, socketpair } from "../../src/sys/fd.ts";
import { spawnProcess, terminate } from "../../src/sys/process.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { adoptSocket } from "../../src/sys/socket-stream.ts";

const APPLETS = "sh cat sleep true false echo id env stty grep kill head seq dd tr wc mkfifo ls".split(" ");

export interface HostAgent extends AsyncDisposable {
  readonly client: AgentClient;
  /** One more connection, for bytes that no client sends. */
  readonly second: ByteStream;
  readonly dir: string;
  /** An OCI configuration as JSON that runs `args` in a busybox root. */
  config(args: readonly string[], changes?: ConfigChanges): Uint8Array;
  /** What of containers and processes there is in the agent's namespaces. */
  lookInside(): Promise<Inside>;
  /** Runs a program in the agent's namespaces; returns its output. */
  runInside(argv: readonly string[]): Promise<string>;
  /** What the agent logged so far. */
  log(): string;
}

export interface Inside {
  /** Names in the agent's directories. */
  readonly bundles: readonly string[];
  readonly crun: readonly string[];
  /** Command names of zombies. */
  readonly zombies: readonly string[];
  /** Pids, in the agent's namespace, of processes named sleep, zombies among them. */
  readonly sleeping: readonly string[];
}

export interface ConfigChanges {
  readonly process?: Readonly<Record<string, unknown>>;
  readonly namespaces?: readonly string[];
  readonly hooks?: Readonly<Record<string, readonly object[]>>;
  readonly annotations?: Readonly<Record<string, string>>;
  /** More of them. */
  readonly mounts?: readonly object[];
  /** Options of the mount that the root is on. */
  readonly rootFlags?: readonly string[];
  /** Members beside the namespaces. */
  readonly linux?: object;
}

/** In namespaces of its own, the network's among them: what it is asked to do to routes and clocks of a guest must not reach this host. */
export async function startHostAgent(): Promise<HostAgent> {
  const dir = mkdtempSync(join(tmpdir(), "hearth-agent-"));
  makeRootfs(join(dir, "rootfs"));
  const [ours, theirs] = socketpair({ nonBlocking: true });
  const [ourSecond, theirSecond] = socketpair({ nonBlocking: true });
  const logFile = join(dir, "agent.log");
  using log = openFd(logFile, O_WRONLY | O_CREAT);
  const fixture = join(import.meta.dir, "fixtures", "agent-process.ts");
  const child = spawnProcess({
    argv: [
      "unshare",
      ...["--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"],
      ...[process.execPath, fixture, dir],
    ],
    stdio: ["ignore", log.fd, log.fd, theirs.fd, theirSecond.fd],
  });
  theirs.close();
  theirSecond.close();
  const runInside = (argv: readonly string[]): Promise<string> => {
    // `unshare` is the parent of the agent and stays outside of its pid namespace.
    const [agent = ""] = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").split(" ");
    return runOrThrow(["nsenter", "--target", agent, "--mount", "--pid", "--net", ...argv]);
  };
  const client = agentClient(await adoptSocket(ours));
  const second = await adoptSocket(ourSecond);
  await client.health.check({}, { timeoutMs: 10_000 });
  return {
    client,
    second,
    dir,
    config: (args, changes) => ociConfig(join(dir, "rootfs"), args, changes),
    lookInside: () => lookInside(runInside, dir),
    runInside,
    log: () => readFileSync(logFile, "utf8"),
    async [Symbol.asyncDispose]() {
      second.close();
      await client[Symbol.asyncDispose]();
      await Promise.race([child.exited, Bun.sleep(5000)]);
      await terminate(child, { graceMs: 0 });
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function lookInside(run: HostAgent["runInside"], dir: string): Promise<Inside> {
  const script = `ls ${dir}/run/bundles; echo; ls ${dir}/run/crun; echo; cat /proc/[0-9]*/stat`;
  const output = await run(["sh", "-c", `${script}; true`]);
  const [bundles = "", crun = "", stats = ""] = output.split("\n\n");
  const processes = [...stats.matchAll(/^(\d+) \((.*)\) (\S)/gm)];
  return {
    bundles: bundles.split("\n"),
    crun: crun.split("\n"),
    zombies: processes.filter(([, , , state]) => state === "Z").map(([, , name = ""]) => name),
    sleeping: processes.filter(([, , name]) => name === "sleep").map(([, pid = ""]) => pid),
  };
}

function makeRootfs(root: string): void {
  for (const name of ["bin", "proc", "dev", "sys", "tmp", "etc"]) mkdirSync(join(root, name), { recursive: true });
  copyFileSync("/bin/busybox", join(root, "bin/busybox"));
  chmodSync(join(root, "bin/busybox"), 0o755);
  for (const applet of APPLETS) symlinkSync("busybox", join(root, "bin", applet));
}

function ociConfig(rootfs: string, args: readonly string[], changes: ConfigChanges = {}): Uint8Array {
  const config = {
    ociVersion: "1.0.2",
    process: {
      args,
      cwd: "/",
      env: ["PATH=/bin"],
      user: { uid: 0, gid: 0 },
      ...changes.process,
    },
    root: { path: rootfs, mountFlags: changes.rootFlags ?? [] },
    hostname: "test",
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
      { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["newinstance", "ptmxmode=0666"] },
      ...(changes.mounts ?? []),
    ],
    ...(changes.hooks === undefined ? {} : { hooks: changes.hooks }),
    ...(changes.annotations === undefined ? {} : { annotations: changes.annotations }),
    linux: {
      ...changes.linux,
      namespaces: (changes.namespaces ?? ["pid", "mount", "ipc", "uts"]).map((type) => ({ type })),
    },
  };
  return new TextEncoder().encode(JSON.stringify(config));
}

/** All bytes of one output until its end. */
export async function readAll(
  client: AgentClient,
  containerId: string,
  execId: string,
  stream: "stdout" | "stderr" = "stdout",
): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for (;;) {
    try {
      const request = { containerId, execId, len: 0 };
      const call = stream === "stdout" ? client.agent.readStdout(request) : client.agent.readStderr(request);
      chunks.push((await call).data);
    } catch (thrown) {
      if (thrown instanceof Error && "code" in thrown && thrown.code === "out-of-range") return Buffer.concat(chunks);
      throw thrown;
    }
  }
}

export interface RunningContainer extends AsyncDisposable {
  readonly id: string;
  /** Of its init process. */
  readonly ids: { readonly containerId: string; readonly execId: string };
}

let serial = 0;

export function newContainerId(): string {
  return `c${++serial}`;
}

/** Creates and starts a container and removes it at the end of the scope. */
export async function runContainer(
  agent: HostAgent,
  args: readonly string[],
  changes?: ConfigChanges,
): Promise<RunningContainer> {
  const id = newContainerId();
  const { agent: api } = agent.client;
  await api.createContainer({ containerId: id, execId: id, ociJson: agent.config(args, changes) });
  await api.startContainer({ containerId: id });
  return {
    id,
    ids: { containerId: id, execId: id },
    async [Symbol.asyncDispose]() {
      await api.removeContainer({ containerId: id, timeout: 5 });
    },
  };
}
