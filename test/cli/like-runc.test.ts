import { afterAll, beforeAll, describe, expect } from "bun:test";
import { chmodSync, copyFileSync, existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { type CommandResult, logLines, type RuntimeFixture, runtimeFixture } from "../harness/runtime-fixture.ts";
import { testUnless } from "../harness/skip.ts";

/** Phrases that engines look for in the last error; where runc says one of them, so do we. */
const PHRASES = [
  "does not exist",
  "already exists",
  "container not running",
  "container not paused",
  "no such file or directory",
  "invalid container ID format",
  "container id cannot be empty",
  "unknown signal",
  "cannot start an already running container",
  "that is not stopped: running",
  "cannot exec in a stopped container",
  "process args cannot be empty",
  "must be an absolute path",
  "invalid log-format",
  "invalid format option",
  "cannot allocate tty",
  "apparmor failed to apply profile",
  "selinux is disabled or not supported",
  "flag provided but not defined",
  "No help topic for",
] as const;

let fixture: RuntimeFixture;
let ours: string;
let theirs: string;
beforeAll(() => {
  fixture = runtimeFixture();
  ours = fixture.bundle;
  theirs = fixture.path("runc-bundle");
});
afterAll(async () => {
  await runc(["delete", "--force", "c1"]);
  await fixture.run(["delete", "--force", "c1"]);
  fixture[Symbol.dispose]();
});

async function runc(args: readonly string[]): Promise<CommandResult> {
  const outputs = [fixture.path(`out-${crypto.randomUUID()}`), fixture.path(`err-${crypto.randomUUID()}`)] as const;
  const child = Bun.spawn(["runc", "--root", fixture.path("runc-root"), ...args], {
    cwd: theirs,
    stdio: ["ignore", Bun.file(outputs[0]), Bun.file(outputs[1])],
  });
  const exitCode = await child.exited;
  const [stdout, stderr] = await Promise.all(outputs.map((path) => Bun.file(path).text()));
  return { exitCode, stdout: stdout ?? "", stderr: stderr ?? "" };
}

/** A container of busybox that sleeps, for either. */
async function makeBundles(): Promise<void> {
  const args = ["/bin/busybox", "sleep", "1000"];
  if (existsSync(join(theirs, "config.json"))) return;
  fixture.writeBundle(args);
  mkdirSync(join(theirs, "rootfs", "bin"), { recursive: true });
  copyFileSync("/bin/busybox", join(theirs, "rootfs", "bin", "busybox"));
  chmodSync(join(theirs, "rootfs", "bin", "busybox"), 0o755);
  await runc(["spec"]);
  const path = join(theirs, "config.json");
  const config = await Bun.file(path).json();
  config.process = { ...config.process, args, terminal: false, rlimits: [] };
  config.linux.cgroupsPath = `${JSON.parse(await Bun.file(join(ours, "config.json")).text()).linux.cgroupsPath}-runc`;
  await Bun.write(path, JSON.stringify(config));
}

const needsRunc = Bun.which("runc") !== null && existsSync("/bin/busybox") ? undefined : "runc or busybox is missing";

describe("as runc", () => {
  testUnless(needsRunc)(
    "a whole life, right and wrong: the same statuses, and the same phrases in the errors",
    async () => {
      await makeBundles();
      const lines: string[][] = [
        ["state", "c1"],
        ["start", "c1"],
        ["kill", "c1", "9"],
        ["delete", "c1"],
        ["delete", "--force", "c1"],
        ["delete", "c1", "--force"],
        ["state", "c1", "--bogus"],
        ["create", "c1", "--bundle", "/nowhere"],
        ["pause", "c1"],
        ["resume", "c1"],
        ["exec", "c1", "/bin/busybox", "true"],
        ["state", ""],
        ["state", "a b"],
        ["state", "../x"],
        ["state"],
        ["state", "--bogus", "c1"],
        ["state", "c1", "--bogus"],
        ["kill", "c1", "--bogus"],
        ["kill", "c1", "9", "--all"],
        ["delete", "c1", "--force"],
        ["start", "c1", "--", "--force"],
        ["bogus"],
        ["bogus", "--help"],
        ["--log-format", "xml", "list"],
        ["list", "--format", "yaml"],
        ["start"],
        ["kill"],
        ["delete"],
        ["pause"],
        ["resume"],
        ["ps"],
        ["events"],
        ["update"],
        ["exec"],
        ["create"],
        ["run"],
        ["checkpoint"],
        ["restore"],
        ["restore", "c1"],
        ["state", "c1", "c2"],
        ["start", "c1", "c2"],
        ["delete", "c1", "c2"],
        ["pause", "c1", "c2"],
        ["update", "--memory", "5000000", "c1"],
        ["update", "--resources", "/nowhere", "c1"],
        ["events", "--stats", "c1"],
        ["events", "--interval", "soon", "c1"],
        ["events", "--interval", "0s", "c1"],
        ["ps", "c1"],
        ["ps", "--format", "json", "c1"],
        ["spec", "--bundle", "/nowhere"],
        ["list", "--format", "json"],
        ["list"],
        ["list", "--bogus"],
        ["features"],
        ["--version"],
        ["--help"],
        ["help"],
        ["create", "--help"],
        ["--bogus", "list"],
        ["--log", "/nowhere/log", "list"],
        ["run", "--bundle", "/nowhere", "c1"],
        ["run", "--detach", "--bundle", "/nowhere", "c1"],
        ["run", "--keep", "--no-subreaper", "--bundle", "/nowhere", "c1"],
        ["create", "--no-pivot", "--no-new-keyring", "--bundle", "/nowhere", "c1"],
        ["create", "--preserve-fds", "many", "c1"],
        ["create", "--pid-file", "/nowhere/pid", "c1"],
        ["create", "--bundle", "/nowhere", "c1"],
        ["create", "--console-socket", "/x", "c1"],
        ["create", "c1"],
        ["create", "c1"],
        ["state", "c1"],
        ["resume", "c1"],
        ["kill", "c1", "0"],
        ["kill", "c1", "BOGUS"],
        ["kill", "c1", "SIGBOGUS"],
        ["kill", "c1", "999"],
        ["kill", "c1", "-1"],
        ["ps", "--format", "yaml", "c1"],
        ["ps", "--format", "json", "c1"],
        ["update", "--memory", "much", "c1"],
        ["update", "--bogus", "c1"],
        ["update", "c1", "--memory", "much"],
        ["update", "c1", "--pids-limit", "50"],
        ["update", "--resources", "/nowhere", "c1"],
        ["exec", "c1", "/bin/busybox", "sh", "-c", "exit 42"],
        ["pause", "c1"],
        ["pause", "c1"],
        ["start", "c1"],
        ["exec", "c1", "/bin/busybox", "true"],
        ["resume", "c1"],
        ["resume", "c1"],
        ["start", "c1"],
        ["start", "c1"],
        ["resume", "c1"],
        ["kill", "c1", "WINCH"],
        ["kill", "c1", "sigwinch"],
        ["kill", "c1", "28"],
        ["pause", "c1"],
        ["state", "c1"],
        ["exec", "c1", "/bin/busybox", "true"],
        ["start", "c1"],
        ["resume", "c1"],
        ["delete", "c1"],
        ["exec", "c1", "/bin/busybox", "true"],
        ["exec", "c1", "/bin/busybox", "false"],
        ["exec", "c1", "/bin/busybox", "sh", "-c", "exit 42"],
        ["exec", "c1", "/bin/busybox", "sh", "-c", "kill -9 $$"],
        ["exec", "c1"],
        ["exec", "--cwd", "rel", "c1", "/bin/busybox", "true"],
        ["exec", "--user", "bob", "c1", "/bin/busybox", "true"],
        ["exec", "--process", "/nowhere", "c1"],
        ["exec", "--bogus", "c1", "/bin/busybox", "true"],
        ["exec", "--preserve-fds", "0", "c1", "/bin/busybox", "true"],
        ["exec", "--preserve-fds", "many", "c1", "/bin/busybox", "true"],
        ["exec", "--user", "1:x", "c1", "/bin/busybox", "true"],
        ["exec", "--additional-gids", "x", "c1", "/bin/busybox", "true"],
        ["exec", "--ignore-paused", "c1", "/bin/busybox", "true"],
        ["exec", "--no-new-privs", "c1", "/bin/busybox", "true"],
        ["exec", "--cap", "CAP_KILL", "c1", "/bin/busybox", "true"],
        ["exec", "--env", "A=1", "c1", "/bin/busybox", "true"],
        ["exec", "--pid-file", "/nowhere/pid", "c1", "/bin/busybox", "true"],
        ["exec", "--console-socket", "/nowhere/s", "c1", "/bin/busybox", "true"],
        ["exec", "--detach", "c1", "/bin/busybox", "true"],
        ["exec", "--apparmor", "x", "c1", "/bin/busybox", "true"],
        ["exec", "--process-label", "x", "c1", "/bin/busybox", "true"],
        ["exec", "--cgroup", "/", "c1", "/bin/busybox", "true"],
        ["exec", "--tty", "--detach", "c1", "/bin/busybox", "true"],
        ["exec", "c1", "/nowhere"],
        ["list", "-q"],
        ["kill", "c1", "SIGKILL"],
      ];
      const stopped: string[][] = [
        ["kill", "c1", "9"],
        ["kill", "--all", "c1", "9"],
        ["kill", "c1", "9", "--all"],
        ["exec", "c1", "/bin/busybox", "true"],
        ["start", "c1"],
        ["pause", "c1"],
        ["events", "--stats", "c1"],
        ["events", "c1"],
        ["resume", "c1"],
        ["update", "--memory", "5000000", "c1"],
        ["ps", "c1"],
        ["delete", "c1"],
        ["state", "c1"],
      ];
      for (const args of lines) await expectAlike(args);
      await fixture.until("c1", "stopped");
      while (!(await runc(["state", "c1"])).stdout.includes('"stopped"'));
      for (const args of stopped) await expectAlike(args);
      expect(fixture.leftovers()).toEqual([]);
    },
    120_000,
  );
});

describe("in the log file", () => {
  testUnless(needsRunc)(
    "JSON lines with level, message and time, of which engines show the last error",
    async () => {
      await makeBundles();
      for (const args of [
        ["state", "c1"],
        ["kill", "c1", "9"],
        ["delete", "c1"],
        ["start", "c1"],
        ["create", "--bundle", "/nowhere", "c1"],
        ["exec", "c1", "true"],
        ["state", "a b"],
      ]) {
        const logs = await Promise.all(
          [runc, fixture.run].map(async (run, index) => {
            const path = fixture.path(`log-${index}`);
            await Bun.write(path, "");
            await run(["--log", path, "--log-format", "json", ...args]);
            return logLines(path);
          }),
        );
        const [their, our] = logs.map((lines) => lines.at(-1));
        const phrases = PHRASES.filter((phrase) => their?.msg.includes(phrase));
        expect([args, their?.level, our?.level]).toEqual([args, "error", "error"]);
        expect([args, our?.msg, phrases.filter((phrase) => our?.msg.includes(phrase))]).toEqual([
          args,
          our?.msg,
          phrases,
        ]);
        expect(Object.keys(our ?? {}).toSorted()).toEqual(Object.keys(their ?? {}).toSorted());
      }
    },
    60_000,
  );
});

async function expectAlike(args: readonly string[]): Promise<void> {
  const their = await runc(args);
  const our = await fixture.run(args);
  const phrases = PHRASES.filter((phrase) => their.stderr.includes(phrase) || their.stdout.includes(phrase));
  const kept = phrases.filter((phrase) => our.stderr.includes(phrase));
  expect([args, our.exitCode, our.stderr, kept]).toEqual([args, their.exitCode, our.stderr, phrases]);
}
