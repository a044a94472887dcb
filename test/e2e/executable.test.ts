/** The one file: alone it runs a container, it reads nothing of where it is started, and what it starts is clean. */
import { describe, expect, test } from "bun:test";
import {
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import { guestPaths } from "../../src/paths.ts";
import { OCI_VERSION } from "../../src/version.ts";
import { readSource } from "../../src/vm/guest-source.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";
import { processesUsing } from "../harness/leftovers.ts";
import { mustRunProgram, PATH, runProgram } from "../harness/program.ts";
import { scratch } from "../harness/scratch.ts";

const REPOSITORY = resolve(import.meta.dir, "../..");
const EXECUTABLE = join(REPOSITORY, "dist/hearth");

function guestManifest() {
  const source = readSource("built", join(REPOSITORY, "build/guest"));
  if (source === undefined) throw new Error("the guest is not built");
  return source.manifest;
}

describe("--version", () => {
  const rest = ["spec: ", "guest kernel: "];
  test.each([
    ["hearth", "hearth", [EXECUTABLE, "--version"]],
    ["hearth runtime", "hearth-runtime", [EXECUTABLE, "runtime", "--version"]],
    ["hearth-runtime", "hearth-runtime", [join(REPOSITORY, "dist/hearth-runtime"), "--version"]],
  ] as const)("%s says version, commit, specification and guest kernel", async (_name, program, argv) => {
    const { stdout } = await mustRunProgram(argv);
    const [version, commit, ...others] = stdout.trimEnd().split("\n");
    expect(version).toBe(`${program} version ${packageJson.version}`);
    expect(commit).toMatch(/^commit: ([0-9a-f]{12}(-dirty-[0-9a-f]{12})?|source-[0-9a-f]{12})$/);
    expect(others).toEqual([`${rest[0]}${OCI_VERSION}`, `${rest[1]}${guestManifest().kernelVersion}`]);
  });

  test("a link of another name is hearth itself", async () => {
    using dir = scratch();
    symlinkSync(EXECUTABLE, dir.path("other"));
    const { stdout } = await mustRunProgram([dir.path("other"), "--version"]);
    expect(stdout).toStartWith(`hearth version ${packageJson.version}\n`);
  });

  test.each(["hearth", "other"])(
    "as %s it knows the runtime's commands: an engine was given its path",
    async (name) => {
      using dir = scratch();
      symlinkSync(EXECUTABLE, dir.path(name));
      const { stderr, status } = await runProgram([dir.path(name), "--root", dir.path("root"), "state", "c1"]);
      expect(stderr).toContain("container c1 does not exist");
      expect(status).toBe(1);
    },
  );
});

test.each([
  ["deleted", "rmdir $PWD"],
  ["unmounted", "mount -t tmpfs tmpfs $PWD; cd $PWD; umount --lazy $PWD"],
  ["too deep", "for i in $(seq 30); do mkdir $name; cd $name; done"],
])("in a working directory that has been %s it works, with / for that", async (_what, leave) => {
  using dir = scratch();
  const script = `name=$(printf %0200d 0); mkdir ${dir.path("cwd")}; cd ${dir.path("cwd")}; ${leave}; exec "$@"`;
  const argv = ["unshare", "--mount", "bash", "-c", script, "bash"];
  const runtime = [EXECUTABLE, "runtime", "--root", dir.path("root")];
  expect(await runProgram([...argv, ...runtime, "delete", "--force", "c1"])).toMatchObject({ status: 0, stderr: "" });
  rmSync(dir.path("cwd"), { recursive: true, force: true });
  expect((await runProgram([...argv, ...runtime, "create", "c1"])).stderr).toContain("/config.json");
  rmSync(dir.path("cwd"), { recursive: true, force: true });
});

test("allowed too few open files it says so at once", async () => {
  await withHearth({}, async (hearth) => {
    const bundle = await hearth.bundle({ args: ["true"] });
    const command = [EXECUTABLE, "runtime", "--config", hearth.configPath, "run", "--bundle", bundle, "c1"];
    const { status, stderr } = await runProgram(["prlimit", "--nofile=32:32", ...command]);
    expect(stderr).toContain(
      "start sandbox process: 32 open files are allowed, it needs 64 (hint: raise the limit of open files",
    );
    expect(status).toBe(1);
  });
});

test("copied alone, with an empty environment, it unpacks its guest and runs a container; damage is mended", async () => {
  using alone = scratch();
  const executable = alone.path("hearth");
  copyFileSync(EXECUTABLE, executable);
  const dataDir = alone.path("data");
  await withHearth({ executable, config: { runtime: { data_dir: dataDir } } }, async (hearth) => {
    const bundle = await hearth.bundle({ args: ["uname", "-r"] });
    const run = async (id: string): Promise<void> => {
      const argv = [executable, "runtime", "--config", hearth.configPath, "run", "--bundle", bundle, id];
      // No PATH either: helpers are found in the system's own places.
      const child = Bun.spawn(argv, { env: {}, cwd: alone.dir, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
      const [stdout, stderr] = await Promise.all([
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
      ]);
      expect({ stdout, status: await child.exited, stderr }).toMatchObject({
        stdout: `${guestManifest().kernelVersion}\n`,
        status: 0,
      });
    };
    await run("first");
    const paths = guestPaths(dataDir, guestManifest().digest);
    expect(readdirSync(alone.dir).sort()).toEqual(["data", "hearth"]);
    const kernel = readFileSync(paths.kernel);
    truncateSync(paths.kernel, kernel.length / 2);
    await run("second");
    expect(readFileSync(paths.kernel).equals(kernel)).toBe(true);
  });
});

describe("among hostile files", () => {
  const FILES = [
    ".env",
    ".env.local",
    ".env.production",
    "bunfig.toml",
    "jsconfig.json",
    "package.json",
    "tsconfig.json",
  ];
  const MODULES = ["@bufbuild/protobuf", "@grpc/grpc-js", "citty", "consola", "smol-toml", "valibot"];

  /** Whatever of it is loaded leaves a file named `trace-…` in the directory. */
  function plant(dir: string): void {
    mkdirSync(dir, { recursive: true });
    const evil = (name: string): string =>
      `require("fs").writeFileSync(${JSON.stringify(join(dir, `trace-${name}`))}, "");\n`;
    writeFileSync(join(dir, "evil.js"), evil("preload"));
    writeFileSync(join(dir, "bunfig.toml"), 'preload = ["./evil.js"]\n[test]\npreload = ["./evil.js"]\n');
    for (const name of FILES.filter((file) => file.startsWith(".env"))) {
      writeFileSync(join(dir, name), `HEARTH_CONFIG=${dir}/hostile.toml\nBUN_OPTIONS=--preload=${dir}/evil.js\n`);
    }
    const paths = Object.fromEntries([...MODULES, "node:fs"].map((name) => [name, ["./evil.js"]]));
    const config = JSON.stringify({ compilerOptions: { baseUrl: ".", paths } });
    writeFileSync(join(dir, "tsconfig.json"), config);
    writeFileSync(join(dir, "jsconfig.json"), config);
    writeFileSync(
      join(dir, "package.json"),
      JSON.stringify({ name: "evil", imports: { "#x": "./evil.js" }, type: "commonjs" }),
    );
    for (const name of MODULES) {
      mkdirSync(join(dir, "node_modules", name), { recursive: true });
      writeFileSync(join(dir, "node_modules", name, "index.js"), evil("module"));
    }
  }

  const traces = (dir: string): string[] => readdirSync(dir).filter((name) => name.startsWith("trace-"));

  test("the trap works: bun itself falls into it", async () => {
    using dir = scratch();
    plant(dir.dir);
    await runProgram([process.execPath, "-e", "0"], { cwd: dir.dir });
    expect(traces(dir.dir)).toEqual(["trace-preload"]);
  });

  test.each([
    ["--version"],
    ["runtime --version"],
    ["runtime state no-such-container"],
    ["runtime list"],
    ["runtime features"],
    ["runtime create no-such-container"],
    ["env"],
    ["no-such-command"],
  ])("%s opens none of them", async (command) => {
    using dir = scratch();
    const hostile = dir.path("hostile");
    plant(hostile);
    const log = dir.path("strace.log");
    const argv = ["strace", "-f", "-qq", "-e", "trace=%file", "-o", log, EXECUTABLE, ...command.split(" ")];
    await runProgram(argv, { cwd: hostile });
    const touched = readFileSync(log, "utf8")
      .split("\n")
      .filter((line) =>
        [...FILES, "node_modules", "hostile.toml", "evil.js"].some((name) => line.includes(`${name}"`)),
      );
    expect(touched).toEqual([]);
    expect(traces(hostile)).toEqual([]);
  });

  test("a bundle full of them runs, and nothing of them is executed", async () => {
    await withHearth({}, async (hearth) => {
      const bundle = await hearth.bundle({ args: ["true"] });
      plant(bundle);
      // Engines start runtimes in the bundle's directory.
      const { status, stderr } = await hearth.runtime(["run", "hostile"], { cwd: bundle });
      expect({ status, stderr: stderr.includes("level=error") }).toEqual({ status: 0, stderr: false });
      expect(traces(bundle)).toEqual([]);
    });
  });
});

test("every process it starts has a constructed environment", async () => {
  await withHearth({}, async (hearth) => {
    const bundle = await hearth.bundle({ args: ["sleep", "1000"] });
    const foreign = {
      FOREIGN: "1",
      LD_LIBRARY_PATH: "/nowhere",
      NODE_OPTIONS: "--no-warnings",
      BUN_CONFIG_NO_CLEAR: "1",
    };
    await mustRun(hearth, ["run", "--detach", "--bundle", bundle, "clean"], foreign);
    const started = processesUsing(hearth.dir);
    // The sandbox process, QEMU, virtiofsd and the shim at the least.
    expect(started.length).toBeGreaterThanOrEqual(4);
    for (const { pid, command } of started) {
      const names = readFileSync(`/proc/${pid}/environ`, "utf8")
        .split("\0")
        .map((entry) => entry.split("=")[0]);
      expect({ command, leaked: names.filter((name) => Object.hasOwn(foreign, name ?? "")) }).toEqual({
        command,
        leaked: [],
      });
    }
    await mustRun(hearth, ["delete", "--force", "clean"], {});
  });
});

async function mustRun(hearth: Hearth, args: readonly string[], env: Readonly<Record<string, string>>): Promise<void> {
  const { status, stdout } = await hearth.runtime(args, {
    env: { PATH, ...env },
    outputPath: join(hearth.dir, "output"),
  });
  expect({ args, status, output: status === 0 ? "" : stdout }).toEqual({ args, status: 0, output: "" });
}
