import { expect, test } from "bun:test";
import { appendFileSync } from "node:fs";
import { PoolInProcess } from "../harness/pool-fixture.ts";
import { logLines, runtimeFixture } from "../harness/runtime-fixture.ts";
import { sandboxFixture } from "../harness/sandbox-fixture.ts";

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
