import { expect, test } from "bun:test";
import { appendFileSync, existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { listenUnix } from "../../src/sys/unix-socket.ts";
import { PoolInProcess } from "../harness/pool-fixture.ts";
import { runProgram } from "../harness/program.ts";
import { logLines, runtimeFixture } from "../harness/runtime-fixture.ts";
import { sandboxFixture } from "../harness/sandbox-fixture.ts";
import { scratch } from "../harness/scratch.ts";

test("a pooled VM that cannot be adopted costs a warning, never the container", async () => {
  using pooled = sandboxFixture();
  pooled.script({ rpc: { adopt: "error" } });
  await using pool = new PoolInProcess(pooled, { number: 1 });
  await pool.seen("ready");
  using fixture = runtimeFixture();
  const endpoint = JSON.stringify(pool.options.endpoint);
  appendFileSync(
    fixture.path("config.toml"),
    `[factory]\nvm_cache_number = 1\nvm_cache_endpoint = ${endpoint}\nvm_cache_timeout_ms = 5000\n`,
  );
  fixture.writeBundle(["sleep", "1000"]);
  const log = fixture.path("log.json");
  await fixture.ok(["--log", log, "--log-format", "json", "create", "--bundle", fixture.bundle, "c1"]);
  const warnings = logLines(log).filter(({ level }) => level === "warning");
  expect(warnings).toMatchObject([{ reason: "not-adoptable", error: "adopt: scripted failure" }]);
  await fixture.ok(["start", "c1"]);
  expect((await fixture.state("c1")).status).toBe("running");
  await fixture.ok(["delete", "--force", "c1"]);
  expect(fixture.leftovers()).toEqual([]);
  await pool.stop();
  expect(pooled.leftovers()).toEqual([]);
}, 20_000);

const MAIN = join(import.meta.dir, "..", "..", "src", "main.ts");

test.each([
  ["vm_cache_number = 0", [], "vm_cache_number is 0, so there is nothing to keep"],
  [
    "vm_cache_shapes = [{ vcpus = 1, memory = 256, number = 1 }]",
    ["--number", "2"],
    "--number is for a pool of one size, and vm_cache_shapes are configured",
  ],
  ["vm_cache_number = 1", ["--number", "1001"], "--number must be 1 to 1000"],
])("serve with %p and %p is refused before anything is made", async (factory, args, message) => {
  using dir = scratch();
  const files = ["kernel", "initrd", "image"].map((key) => `${key} = "${MAIN}"\n`).join("");
  const config = `[hypervisor.qemu]\nshared_fs = "virtio-9p"\n${files}[factory]\n${factory}\n[runtime]\nrun_dir = "${dir.path("run")}"\n`;
  writeFileSync(dir.path("config.toml"), config);
  const { status, stderr } = await runProgram([
    process.execPath,
    MAIN,
    "--config",
    dir.path("config.toml"),
    "vmcache",
    "serve",
    ...args,
  ]);
  expect([status, stderr]).toEqual([1, expect.stringContaining(message)]);
  expect(existsSync(dir.path("run"))).toBe(false);
});

test.each(["status", "stop"])("%s waits for the server as long as the configuration says", async (command) => {
  using dir = scratch();
  // Whoever connects waits, as at a socket of systemd's whose server is only just starting.
  await using _socket = await listenUnix(dir.path("cache.sock"), () => {});
  const endpoint = JSON.stringify(dir.path("cache.sock"));
  writeFileSync(
    dir.path("config.toml"),
    `[factory]\nvm_cache_endpoint = ${endpoint}\n[runtime]\nrequest_timeout_ms = 1234\n`,
  );
  const { status, stderr } = await runProgram([
    ...[process.execPath, MAIN, "--config", dir.path("config.toml")],
    ...["vmcache", command],
  ]);
  expect(status).toBe(1);
  expect(stderr).toContain("no answer within 1234 ms");
});
