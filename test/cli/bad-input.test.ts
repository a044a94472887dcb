import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CommandResult, type RuntimeFixture, runtimeFixture } from "../harness/runtime-fixture.ts";

/** The real program, from source, without any fixture in it. */
const MAIN = join(import.meta.dir, "..", "..", "src", "main.ts");

let fixture: RuntimeFixture;
beforeAll(() => {
  fixture = runtimeFixture();
});
afterAll(() => {
  fixture[Symbol.dispose]();
});

async function hearth(args: readonly string[], env: Record<string, string> = {}): Promise<CommandResult> {
  const child = Bun.spawn([process.execPath, MAIN, ...args], {
    env: { ...fixture.env, ...env },
    cwd: fixture.dir,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [stdout, stderr, exitCode] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { exitCode, stdout, stderr };
}

/** One line on standard error that holds `message`, nothing on standard output, and nothing made. */
async function refuses(args: readonly string[], message: string, exitCode = 1): Promise<void> {
  const result = await hearth(args);
  expect([result.exitCode, result.stdout, result.stderr]).toEqual([exitCode, "", expect.stringContaining(message)]);
  expect(result.stderr.trimEnd().split("\n")).toHaveLength(1);
  expect(fixture.leftovers()).toEqual([]);
}

const runtime = (...args: string[]): string[] => ["runtime", "--root", fixture.root, ...args];

describe("bundles", () => {
  const configs: [string, string, string][] = [
    ["not JSON", "{", "not JSON"],
    ["an empty file", "", "not JSON"],
    ["no object", "[]", "check "],
    ["ociVersion 2", '{"ociVersion":"2.0.0"}', "ociVersion must be a 1.x version"],
    ["no process", '{"ociVersion":"1.0.0","root":{"path":"rootfs"}}', "process must not be empty"],
    ["no args", config({ process: { cwd: "/", args: [] } }), "process.args must not be empty"],
    ["relative cwd", config({ process: { cwd: "x", args: ["x"] } }), "process.cwd must be an absolute path"],
    ["no root", config({ root: undefined }), "root must be specified"],
    ["missing rootfs", config({ root: { path: "nowhere" } }), "nowhere: no such file or directory"],
    ["rootfs a file", config({ root: { path: "config.json" } }), "config.json: not a directory"],
    [
      "missing network namespace",
      config({ linux: { namespaces: [{ type: "network", path: "/nowhere/ns" }] } }),
      "use network namespace /nowhere/ns: ENOENT",
    ],
    [
      "createContainer hook that is missing",
      config({ hooks: { createContainer: [{ path: "/nowhere" }] } }),
      "hooks.createContainer.0: /nowhere does not exist",
    ],
    ["the host's network", config({ linux: { namespaces: [{ type: "pid" }] } }), "linux.namespaces without network"],
    ["a terminal nobody takes", config({ process: { cwd: "/", args: ["x"], terminal: true } }), "cannot allocate tty"],
    [
      "a pod's member without its sandbox",
      config({
        annotations: { "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod1" },
      }),
      "container pod1 does not exist",
    ],
  ];

  function config(changes: object): string {
    return JSON.stringify({
      ociVersion: "1.0.2",
      process: { cwd: "/", args: ["true"] },
      root: { path: "rootfs" },
      linux: { namespaces: [{ type: "network" }, { type: "mount" }] },
      ...changes,
    });
  }

  test.each(configs)("%s", async (_name, text, message) => {
    writeFileSync(join(fixture.bundle, "config.json"), text);
    await refuses(runtime("create", "--bundle", fixture.bundle, "c1"), message);
    await refuses(runtime("run", "--detach", "--bundle", fixture.bundle, "c1"), message);
  });

  test.each(["proc", "sysfs"])("a link where %s is to be mounted", async (type) => {
    const link = join(fixture.bundle, "rootfs", type);
    symlinkSync("/elsewhere", link);
    writeFileSync(
      join(fixture.bundle, "config.json"),
      config({ mounts: [{ destination: `/${type}`, type, source: type }] }),
    );
    await refuses(runtime("create", "-b", fixture.bundle, "c1"), "must be mounted on ordinary directory");
    rmSync(link);
  });

  test("no bundle, no config.json, a file for a bundle, a config over the limit", async () => {
    await refuses(
      runtime("create", "--bundle", "/nowhere", "c1"),
      "invalid bundle /nowhere: no such file or directory",
    );
    const empty = fixture.path("empty");
    mkdirSync(empty);
    await refuses(runtime("create", "-b", empty, "c1"), `JSON specification file ${empty}/config.json not found`);
    await refuses(runtime("create", "-b", fixture.path("config.toml"), "c1"), "not a directory");
    writeFileSync(join(empty, "config.json"), " ".repeat(4 << 20));
    await refuses(runtime("create", "-b", empty, "c1"), "4194304 bytes, at most");
  });

  test("QEMU, virtiofsd or kernel missing", async () => {
    writeFileSync(join(fixture.bundle, "config.json"), config({}));
    const withConfig = async (text: string, message: string): Promise<void> => {
      const path = fixture.path("bad.toml");
      writeFileSync(path, `[runtime]\nrun_dir = ${JSON.stringify(fixture.path("run"))}\n[hypervisor.qemu]\n${text}`);
      await refuses(
        ["runtime", "--config", path, "--root", fixture.root, "create", "-b", fixture.bundle, "c1"],
        message,
      );
    };
    await withConfig('path = "/nowhere/qemu"\n', "find QEMU /nowhere/qemu: no such program (hint: install QEMU");
    await withConfig('virtio_fs_daemon = "/nowhere/v"\n', "find virtiofsd /nowhere/v: no such program (hint: ");
    const other = fixture.path("config.toml");
    await withConfig(
      `kernel = "/nowhere/k"\ninitrd = "${other}"\nimage = "${other}"\n`,
      "find kernel of [hypervisor.qemu] /nowhere/k: ENOENT",
    );
    await withConfig('kernel = "/nowhere/k"\n', "kernel set without initrd and image: they belong together (hint: ");
    await withConfig('accel = "kvm"\n', "use KVM: /dev/kvm");
  });
});

describe("ids", () => {
  const bad: [string, string][] = [
    ["", "container id cannot be empty"],
    [".", "invalid container ID format"],
    ["..", "invalid container ID format"],
    ["../x", "invalid container ID format"],
    ["a b", "invalid container ID format"],
    ["a/b", "invalid container ID format"],
    ["a\nb", "invalid container ID format"],
    ["x".repeat(300), "300 characters, at most 200"],
  ];
  test.each(bad)("%j", async (id, message) => {
    fixture.writeBundle(["true"]);
    for (const command of ["create", "run", "state", "start", "kill", "delete", "pause", "resume", "ps"]) {
      const flags = command === "create" || command === "run" ? ["--bundle", fixture.bundle] : [];
      await refuses(runtime(command, ...flags, id), message);
    }
    await refuses(runtime("exec", id, "true"), message, 255);
  });
});

describe("command lines", () => {
  const runtimeLines: [string[], string, number?][] = [
    [["bogus"], "No help topic for 'bogus'", 3],
    [["creat", "x"], 'unknown command \\"creat\\"; did you mean \\"create\\"?', 3],
    [["constructor"], 'unknown command \\"constructor\\"', 3],
    [["create", "--bogus", "x"], "flag provided but not defined: --bogus"],
    [["create", "--bundel", "b", "x"], 'did you mean \\"--bundle\\"?'],
    [["create", "--bundle"], "flag needs an argument: --bundle"],
    [["create"], "container id is missing"],
    [["create", "a", "b"], "exactly 1 argument is wanted, got 2"],
    [["create", "--preserve-fds", "65", "x"], "preserve 65 file descriptors: at most 64"],
    [["create", "--preserve-fds", "x", "x"], "for flag --preserve-fds: must be a number"],
    [["state"], "container id is missing"],
    [["state", "a", "b"], "exactly 1 argument is wanted, got 2"],
    [["kill"], "container id is missing"],
    [["kill", "a", "9", "b"], "at most 2 arguments are wanted, got 3"],
    [["exec"], "container id is missing", 1],
    [["list", "x"], "no arguments are wanted"],
    [["features", "x"], "no arguments are wanted"],
    [["spec", "x"], "no arguments are wanted"],
    [["list", "--format", "yaml"], "invalid format option"],
    [["ps", "--format", "yaml", "x"], "invalid format option"],
    [["checkpoint", "x"], "checkpoint and restore of containers are not supported"],
    [["restore", "x"], "checkpoint and restore of containers are not supported"],
    [["events", "x"], "container x does not exist"],
    [["spec", "--rootless"], "a VM needs the host's root"],
    [["spec", "--bundle", "/nowhere"], "write /nowhere/config.json: no such file or directory"],
    [["exec", "--bogus", "c1", "true"], "exec failed: flag provided but not defined: --bogus", 1],
    [["events", "--interval", "soon", "x"], "for flag --interval: parse error"],
    [["update", "--resources", "/nowhere", "x"], "container x does not exist"],
  ];
  test.each(runtimeLines.map((line) => [line] as const))("runtime %j", async ([args, message, exitCode]) => {
    await refuses(runtime(...args), message, exitCode);
  });

  test.each<[string[], string]>([
    [["bogus"], 'hearth: unknown command "bogus"'],
    [["chekc"], 'hearth: unknown command "chekc"; did you mean "check"?'],
    [["--bogus"], "hearth: flag provided but not defined: --bogus"],
    [["check", "x"], 'hearth check: no arguments are wanted, got "x"'],
    [["runtime", "--log-format", "xml", "list"], 'hearth runtime: invalid log-format: "xml"'],
    [["runtime", "--rootless", "true", "list"], "hearth runtime: run rootless: not supported"],
    [["runtime", "--log", "/nowhere/log", "list"], "hearth runtime: open log /nowhere/log: ENOENT"],
    [["shim"], "started by the runtime, not by hand"],
    [["agent", "x"], "no arguments are wanted"],
  ])("hearth %p", async (args, message) => {
    const { exitCode, stdout, stderr } = await hearth(args);
    expect([exitCode === 0, stdout, stderr]).toEqual([false, "", expect.stringContaining(message)]);
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
  });
});

describe("configuration files", () => {
  test.each([
    ["[factory\n", "line 1, column "],
    ["[factory]\nvm_cache_numbr = 1\n", 'unknown key factory.vm_cache_numbr; did you mean "vm_cache_number"?'],
    ["[hypervisor.qemu]\ndefault_memory = 4\n", "default_memory must be a whole number of MiB from 128"],
  ])("%j", async (text, message) => {
    const path = fixture.path("bad.toml");
    writeFileSync(path, text);
    fixture.writeBundle(["true"]);
    await refuses(
      ["runtime", "--config", path, "--root", fixture.root, "create", "-b", fixture.bundle, "c1"],
      `configuration ${path}: `,
    );
    const { exitCode, stderr } = await hearth(["env"], { HEARTH_CONFIG: path });
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining(message)]);
  });

  test("a named file that is missing", async () => {
    await refuses(["runtime", "--config", "/nowhere.toml", "list"], "read configuration /nowhere.toml: ENOENT");
  });
});

describe("what is printed", () => {
  test("versions, as the program and as the runtime", async () => {
    for (const args of [["--version"], ["-v"], ["runtime", "--version"], ["runtime", "-v"]]) {
      const { exitCode, stdout } = await hearth(args);
      expect(exitCode).toBe(0);
      expect(stdout).toMatch(/^hearth(-runtime)? version \S+\ncommit: \S+\nspec: 1\.\d+\.\d+\nguest kernel: \S+\n$/);
    }
  });

  test("argv[0] decides", async () => {
    const child = Bun.spawn([process.execPath, MAIN, "list", "-q"], {
      argv0: "/usr/bin/hearth-runtime",
      env: fixture.env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    expect([await new Response(child.stdout).text(), await child.exited]).toEqual(["", 0]);
  });

  test("usage, of the programs and of each command", async () => {
    for (const args of [
      [],
      ["--help"],
      ["runtime"],
      ["runtime", "--help"],
      ["runtime", "exec", "--help"],
      ["check", "-h"],
    ]) {
      const { exitCode, stdout } = await hearth(args);
      expect([args, exitCode, stdout]).toEqual([args, 0, expect.stringContaining("\nUSAGE:\n")]);
      const name = ["hearth", ...args.filter((arg) => !arg.startsWith("-"))].join(" ");
      expect(stdout).toStartWith(`NAME:\n   ${name} - `);
      expect(stdout).not.toContain("\u001b");
    }
  });

  test("a help flag of the container's command is the container's", async () => {
    await refuses(runtime("exec", "c1", "ls", "--help"), "container c1 does not exist", 255);
  });

  test("features is the JSON that the spec describes", async () => {
    const { stdout } = await hearth(["runtime", "features"]);
    expect(JSON.parse(stdout)).toMatchObject({ ociVersionMin: "1.0.0", linux: { apparmor: { enabled: true } } });
  });

  test("spec writes a file that create accepts, and never over another", async () => {
    const dir = fixture.path("starter");
    mkdirSync(join(dir, "rootfs"), { recursive: true });
    expect((await hearth(["runtime", "spec", "--bundle", dir])).exitCode).toBe(0);
    await refuses(["runtime", "spec", "-b", dir], "exists; remove it first");
    await refuses(runtime("create", "-b", dir, "c1"), "cannot allocate tty");
    rmSync(dir, { recursive: true });
  });

  test("the log file gets the error as a JSON line, standard error as text", async () => {
    const log = fixture.path("log");
    const { stderr } = await hearth(runtime("--log", log, "--log-format", "json", "state", "nope"));
    expect(stderr).toBe("hearth runtime: container nope does not exist\n");
    const line = JSON.parse(await Bun.file(log).text());
    expect(line).toEqual({
      level: "error",
      msg: "container nope does not exist",
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
    });
    rmSync(log);
  });
});
