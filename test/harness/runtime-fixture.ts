/** Runs the runtime's commands over process-backed containers, in directories of a test's own, and looks for leftovers. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ContainerScript } from "../fixtures/container-sandbox.ts";
import { processesUsing } from "./leftovers.ts";
import { scratch } from "./scratch.ts";

const PROGRAM = join(import.meta.dir, "..", "fixtures", "hearth-runtime.ts");
const CGROUPS = "/sys/fs/cgroup";

export interface CommandResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RuntimeFixture extends Disposable {
  readonly dir: string;
  readonly root: string;
  readonly bundle: string;
  path(name: string): string;
  /** The command line of the runtime, for tests that spawn it themselves. */
  argv(...args: string[]): string[];
  readonly env: Record<string, string>;
  run(args: readonly string[], stdin?: Uint8Array | string): Promise<CommandResult>;
  /** Runs and insists on exit status 0; returns standard output. */
  ok(args: readonly string[], stdin?: Uint8Array | string): Promise<string>;
  /** Writes config.json: a container that runs `args`. Returns the bundle. */
  writeBundle(args: readonly string[], changes?: BundleChanges): string;
  script(script: ContainerScript): void;
  state(id: string): Promise<{ readonly status: string; readonly pid: number; readonly [key: string]: unknown }>;
  /** Waits until the container has the status. */
  until(id: string, status: string): Promise<void>;
  /** Container directories, VM directories, processes and cgroups of this fixture. */
  leftovers(): string[];
}

export interface BundleChanges {
  readonly process?: object;
  readonly spec?: object;
  /** A cgroup below the fixture's. Default: the fixture's itself. */
  readonly cgroup?: string;
}

/** `id` is part of every container's cgroup, so that leftovers are found. */
export function runtimeFixture(): RuntimeFixture {
  const dir = scratch();
  const name = `hearth-test-${crypto.randomUUID().slice(0, 8)}`;
  const root = dir.path("root");
  const bundle = dir.path("bundle");
  const runDir = dir.path("run");
  const scriptPath = dir.path("script.json");
  const configPath = dir.path("config.toml");
  writeFileSync(scriptPath, "{}");
  writeFileSync(configPath, `[runtime]\nrun_dir = ${JSON.stringify(runDir)}\nrequest_timeout_ms = 20000\n`);
  mkdirSync(join(bundle, "rootfs"), { recursive: true });
  const env = { PATH: process.env["PATH"] ?? "/usr/bin:/bin", HEARTH_CONFIG: configPath };
  const argv = (...args: string[]): string[] => [process.execPath, PROGRAM, scriptPath, "--root", root, ...args];
  const fixture: RuntimeFixture = {
    dir: dir.dir,
    root,
    bundle,
    env,
    argv,
    path: dir.path,
    async run(args, stdin = "") {
      // Files, not pipes: what create and run are given stays open in the shim.
      const outputs = [dir.path(`out-${crypto.randomUUID()}`), dir.path(`err-${crypto.randomUUID()}`)] as const;
      const child = Bun.spawn(argv(...args), {
        env,
        cwd: bundle,
        stdio: [typeof stdin === "string" ? Buffer.from(stdin) : stdin, Bun.file(outputs[0]), Bun.file(outputs[1])],
      });
      const exitCode = await child.exited;
      const [stdout, stderr] = outputs.map((path) => readFileSync(path, "utf8"));
      return { exitCode, stdout: stdout ?? "", stderr: stderr ?? "" };
    },
    async ok(args, stdin) {
      const result = await fixture.run(args, stdin);
      if (result.exitCode !== 0) throw new Error(`${args.join(" ")}: status ${result.exitCode}: ${result.stderr}`);
      return result.stdout;
    },
    writeBundle(args, changes = {}) {
      const config = {
        ociVersion: "1.0.2",
        process: { args, cwd: "/", user: { uid: 0, gid: 0 }, env: ["PATH=/usr/bin:/bin"], ...changes.process },
        root: { path: "rootfs" },
        linux: {
          namespaces: ["pid", "network", "mount"].map((type) => ({ type })),
          cgroupsPath: join("/", name, changes.cgroup ?? ""),
        },
        ...changes.spec,
      };
      writeFileSync(join(bundle, "config.json"), JSON.stringify(config));
      return bundle;
    },
    script: (script) => writeFileSync(scriptPath, JSON.stringify(script)),
    state: async (id) => JSON.parse(await fixture.ok(["state", id])),
    async until(id, status) {
      for (;;) {
        if ((await fixture.state(id)).status === status) return;
      }
    },
    leftovers: () => [
      ...entries(root).map((entry) => `container ${entry}`),
      ...entries(join(runDir, "vm")).map((entry) => `VM ${entry}`),
      ...processesUsing(dir.dir).map(({ pid, command }) => `process ${pid} ${command}`),
      ...entries(CGROUPS)
        .map((controller) => join(CGROUPS, controller, name))
        .filter((path) => existsSync(path)),
    ],
    [Symbol.dispose]: () => {
      for (const { pid } of processesUsing(dir.dir)) process.kill(pid, "SIGKILL");
      for (const controller of entries(CGROUPS)) {
        const cgroup = join(CGROUPS, controller, name);
        if (!existsSync(cgroup)) continue;
        const below = readdirSync(cgroup, { withFileTypes: true, recursive: true }).filter((one) => one.isDirectory());
        for (const { parentPath, name: child } of below.toReversed()) rmdirSync(join(parentPath, child));
        rmdirSync(cgroup);
      }
      dir[Symbol.dispose]();
    },
  };
  return fixture;
}

function entries(dir: string): string[] {
  return existsSync(dir) ? readdirSync(dir) : [];
}

/** Lines of a runtime's JSON log. */
export function logLines(path: string): { readonly level: string; readonly msg: string }[] {
  const lines = readFileSync(path, "utf8").trim().split("\n");
  return lines.filter((line) => line !== "").map((line) => JSON.parse(line));
}
