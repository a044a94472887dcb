/** The units of packaging/systemd, and the pool server as systemd runs it: socket activation, readiness, watchdog, kill. */
import { expect, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { REPOSITORY } from "../../scripts/step.ts";
import { DEFAULT_CONFIG } from "../../src/config/defaults.ts";
import { defaultMetricsSocket } from "../../src/paths.ts";
import { connectUnix } from "../../src/sys/unix-socket.ts";
import { vmCacheStatus } from "../../src/vmcache/control.ts";
import { DatagramLog } from "../harness/datagram.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";
import { parseMetrics, sampleValue } from "../harness/metrics-page.ts";
import { vmRecords } from "../harness/pool.ts";
import { mustRunProgram, PATH, runProgram } from "../harness/program.ts";
import { scratch } from "../harness/scratch.ts";

const UNITS = join(REPOSITORY, "packaging/systemd");
const INSTALLED = "/usr/local/bin/hearth";
const VM_TEST_TIMEOUT_MS = 180_000;

const unit = (name: string): string => readFileSync(join(UNITS, name), "utf8");

/** Values of a key, in order. */
function values(text: string, key: string): string[] {
  return text.split("\n").flatMap((line) => (line.startsWith(`${key}=`) ? [line.slice(key.length + 1)] : []));
}

test("systemd finds nothing wrong with the units", async () => {
  using dir = scratch();
  for (const name of ["hearth-vmcache.service", "hearth-vmcache.socket"]) {
    writeFileSync(dir.path(name), unit(name).replaceAll(INSTALLED, join(REPOSITORY, "dist/hearth")));
  }
  const paths = ["hearth-vmcache.service", "hearth-vmcache.socket"].map(dir.path);
  expect(await runProgram(["systemd-analyze", "verify", ...paths])).toMatchObject({
    status: 0,
    stdout: "",
    stderr: "",
  });
  // It does complain, of what is wrong.
  writeFileSync(dir.path("hearth-vmcache.service"), `${unit("hearth-vmcache.service")}\n[Service]\nKillMode=proces\n`);
  expect((await runProgram(["systemd-analyze", "verify", ...paths])).stderr).toContain("kill mode");
});

test("the units say what the server relies on", () => {
  const service = unit("hearth-vmcache.service");
  const socket = unit("hearth-vmcache.socket");
  expect(values(service, "ExecStart")).toEqual([`${INSTALLED} vmcache serve`]);
  expect(values(service, "Type")).toEqual(["notify"]);
  expect(values(service, "KillMode")).toEqual(["process"]);
  expect(values(service, "WatchdogSignal")).toEqual(["SIGKILL"]);
  expect(values(service, "OOMPolicy")).toEqual(["continue"]);
  expect(values(socket, "ListenStream")).toEqual([DEFAULT_CONFIG.factory.vm_cache_endpoint]);
  expect(values(socket, "SocketMode")).toEqual(["0600"]);
});

/** setpriv(1) with the privileges that the unit leaves. */
function asUnit(argv: readonly string[]): string[] {
  const service = unit("hearth-vmcache.service");
  const dropped = values(service, "CapabilityBoundingSet").flatMap((value) => value.replace("~", "").split(" "));
  const set = dropped.map((name) => `-${name.replace("CAP_", "").toLowerCase()}`).join(",");
  return ["setpriv", "--no-new-privs", `--bounding-set=${set}`, ...argv];
}

/** systemd-socket-activate(1): listens, and becomes the server at the first connection. */
function activate(hearth: Hearth, notifySocket: string) {
  const serve = [hearth.executable, "--config", hearth.configPath, "vmcache", "serve", "--number", "1"];
  const environment = [`NOTIFY_SOCKET=${notifySocket}`, "WATCHDOG_USEC=400000"].map((entry) => `--setenv=${entry}`);
  const argv = ["systemd-socket-activate", `--listen=${hearth.endpoint}`, ...environment, ...asUnit(serve)];
  mkdirSync(hearth.runDir, { recursive: true, mode: 0o700 });
  return Bun.spawn(argv, { env: { PATH }, cwd: "/", stdio: ["ignore", "ignore", "pipe"] });
}

/** Resolves when it listens, with the mode that the socket unit asks for: systemd-socket-activate knows no modes. */
async function listening(path: string, child: Bun.Subprocess): Promise<void> {
  while (!existsSync(path)) {
    if (child.exitCode !== null) throw new Error(`systemd-socket-activate ended with ${child.exitCode}`);
    await Bun.sleep(10);
  }
  chmodSync(path, 0o600);
}

test(
  "activated by its socket it serves, feeds the watchdog, and its VMs outlive it when the watchdog kills it",
  async () => {
    await withHearth({}, async (hearth) => {
      const notifySocket = join(hearth.dir, "notify");
      using notified = new DatagramLog(notifySocket);
      const next = (wanted: string): Promise<void> => notified.next(wanted);
      const first = activate(hearth, notifySocket);
      await listening(hearth.endpoint, first);
      // The first connection starts it; its client waits.
      expect((await vmCacheStatus(hearth.endpoint, 30_000)).pid).toBe(first.pid);
      await next("READY=1");
      for (let ping = 0; ping < 3; ping++) await next("WATCHDOG=1");
      await next("STATUS=1 of 1 vms ready");

      const metrics = await fetch("http://localhost/metrics", { unix: defaultMetricsSocket(hearth.runDir) });
      const families = await parseMetrics(await metrics.text());
      const qemu = sampleValue(families, "hearth_pool_vm_memory_bytes", { state: "idle", process: "qemu" });
      expect(qemu).toBeGreaterThan(32 * 1024 * 1024);

      const pooled = hearth.configWith({ factory: { vm_cache_number: 1, vm_cache_timeout_ms: 10_000 } });
      const bundle = await hearth.bundle({ args: ["sleep", "100000"] });
      // The container keeps the output of the command that starts it.
      const outputPath = join(hearth.dir, "output");
      const runtime = async (...args: string[]) => {
        const result = await hearth.runtime(["--config", pooled, ...args], { outputPath });
        expect(result).toMatchObject({ status: 0 });
        return result.stdout;
      };
      await runtime("run", "--detach", "--bundle", bundle, "c1");
      await next("STATUS=1 of 1 vms ready");
      const status = await vmCacheStatus(hearth.endpoint);
      expect(status).toMatchObject({ hits: 1, boots: 2 });
      expect(status.handedOut.map(({ state }) => state)).toEqual(["adopted"]);

      // As systemd ends a service whose watchdog starves, with KillMode=process: the main process alone.
      first.kill("SIGSTOP");
      first.kill("SIGKILL");
      await first.exited;
      expect(
        vmRecords(hearth.runDir)
          .map(({ state }) => state)
          .sort(),
      ).toEqual(["adopted", "idle"]);
      expect(await runtime("exec", "c1", "echo", "alive")).toBe("alive\n");

      rmSync(hearth.endpoint);
      const second = activate(hearth, notifySocket);
      await listening(hearth.endpoint, second);
      await mustRunProgram([hearth.executable, "vmcache", "status"], { env: hearth.env });
      expect(await vmCacheStatus(hearth.endpoint)).toMatchObject({ pid: second.pid, adopted: 1, boots: 0 });
      expect(await runtime("exec", "c1", "echo", "still")).toBe("still\n");
      await runtime("delete", "--force", "c1");
      await mustRunProgram([hearth.executable, "vmcache", "stop"], { env: hearth.env });
      expect(await second.exited).toBe(0);
      await next("STOPPING=1");
      // systemd's file is not ours to remove.
      expect(existsSync(hearth.endpoint)).toBe(true);
    });
  },
  VM_TEST_TIMEOUT_MS,
);

test("when its program is replaced on disk it ends with the status that makes systemd start the new one", async () => {
  expect(values(unit("hearth-vmcache.service"), "RestartForceExitStatus")).toEqual(["75"]);
  using dir = scratch();
  const executable = dir.path("hearth");
  copyFileSync(join(REPOSITORY, "dist/hearth"), executable);
  await withHearth({ executable }, async (hearth) => {
    const notifySocket = join(hearth.dir, "notify");
    using notified = new DatagramLog(notifySocket);
    const child = activate(hearth, notifySocket);
    await listening(hearth.endpoint, child);
    expect((await vmCacheStatus(hearth.endpoint, 30_000)).pid).toBe(child.pid);
    await notified.next("READY=1");
    copyFileSync(executable, `${executable}.new`);
    chmodSync(`${executable}.new`, 0o755);
    renameSync(`${executable}.new`, executable);
    expect(await child.exited).toBe(75);
  });
});

test("a socket that is not the configured endpoint is refused", async () => {
  await withHearth({}, async (hearth) => {
    const notifySocket = join(hearth.dir, "notify");
    using _notified = new DatagramLog(notifySocket);
    const child = activate({ ...hearth, endpoint: join(hearth.dir, "other.sock") }, notifySocket);
    await listening(join(hearth.dir, "other.sock"), child);
    await using _client = await connectUnix(join(hearth.dir, "other.sock"));
    expect(await child.exited).toBe(1);
    expect(await new Response(child.stderr).text()).toContain(`the inherited socket is ${hearth.dir}/other.sock`);
  });
});
