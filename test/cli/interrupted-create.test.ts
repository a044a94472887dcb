/** Creates that fail, are interrupted, are under way while other commands come, or are several of one id. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { type RuntimeFixture, runtimeFixture } from "../harness/runtime-fixture.ts";

let fixture: RuntimeFixture;
beforeEach(() => {
  fixture = runtimeFixture();
});
afterEach(() => {
  fixture[Symbol.dispose]();
});

test("a failure at any call of create leaves nothing", async () => {
  fixture.writeBundle(["true"]);
  for (const method of ["adopt", "createContainer", "waitProcess", "info", "connectNetwork", "commitContainer"]) {
    fixture.script({ fail: { [method]: { code: "internal", message: `${method} broke` } } });
    const failed = await fixture.run(["create", "c1"]);
    expect([method, failed.exitCode, failed.stderr]).toEqual([method, 1, expect.stringContaining(`${method} broke`)]);
    expect([method, fixture.leftovers()]).toEqual([method, []]);
    fixture.script({ fail: { [method]: "die" } });
    const died = await fixture.run(["create", "c1"]);
    expect([method, died.exitCode]).toEqual([method, 1]);
    expect([method, fixture.leftovers()]).toEqual([method, []]);
  }
  fixture.script({});
  const noPidFile = await fixture.run(["create", "--pid-file", "/nowhere/pid", "c1"]);
  expect(noPidFile.stderr).toContain("write pid file /nowhere/pid: ENOENT");
  expect(fixture.leftovers()).toEqual([]);
}, 120_000);

describe("a create that is interrupted", () => {
  const interrupted = async (signal: "SIGTERM" | "SIGINT" | "SIGKILL"): Promise<number> => {
    fixture.script({ fail: { connectNetwork: "hang" } });
    const child = Bun.spawn(fixture.argv("create", "--bundle", fixture.bundle, "c1"), {
      env: fixture.env,
      stdio: ["ignore", "ignore", "ignore"],
    });
    while (!existsSync(fixture.path("script.json.called.connectNetwork"))) await Bun.sleep(5);
    child.kill(signal);
    await child.exited;
    fixture.script({});
    return child.exitCode ?? -1;
  };

  test.each([
    ["SIGTERM", 143],
    ["SIGINT", 130],
  ] as const)("%s undoes it", async (signal, status) => {
    fixture.writeBundle(["sleep", "1000"]);
    expect(await interrupted(signal)).toBe(status);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("killed, its VM ends by itself, and delete --force clears its record away", async () => {
    fixture.writeBundle(["sleep", "1000"]);
    await interrupted("SIGKILL");
    await fixture.until("c1", "stopped");
    await fixture.ok(["delete", "--force", "c1"]);
    expect(fixture.leftovers()).toEqual([]);
  });
});

test("a create that is under way: it is told of, nothing in it can be signalled or executed, and delete waits for its end", async () => {
  fixture.writeBundle(["sleep", "1000"]);
  fixture.script({ fail: { connectNetwork: "hang" } });
  const create = Bun.spawn(fixture.argv("create", "--bundle", fixture.bundle, "c1"), {
    env: fixture.env,
    stdio: ["ignore", "ignore", "ignore"],
  });
  while (!existsSync(fixture.path("script.json.called.connectNetwork"))) await Bun.sleep(5);
  const state = await fixture.state("c1");
  expect(state.status).toBe("creating");
  expect(state.pid).toBeGreaterThan(0);
  expect(await fixture.ok(["list", "--quiet"])).toBe("c1\n");
  for (const [status, args] of [
    [1, ["kill", "c1", "KILL"]],
    [1, ["kill", "--all", "c1", "KILL"]],
    [255, ["exec", "c1", "true"]],
    [1, ["ps", "c1"]],
    [1, ["events", "--stats", "c1"]],
  ] as const) {
    const said = await fixture.run(args);
    expect([args, said.exitCode, said.stderr]).toEqual([args, status, expect.stringContaining("not running")]);
  }
  const again = await fixture.run(["create", "c1"]);
  expect([again.exitCode, again.stderr]).toEqual([1, expect.stringContaining("already exists: c1")]);
  const deleted = fixture.run(["delete", "--force", "c1"]);
  create.kill("SIGTERM");
  expect(await create.exited).toBe(143);
  expect(await deleted).toMatchObject({ exitCode: 0, stderr: "" });
  fixture.script({});
  expect(fixture.leftovers()).toEqual([]);
}, 60_000);

test("of several creates of one id at once, one succeeds and the others change nothing", async () => {
  fixture.writeBundle(["sleep", "1000"]);
  const results = await Promise.all([1, 2, 3, 4].map(() => fixture.run(["create", "c1"])));
  expect(results.map(({ exitCode }) => exitCode).sort()).toEqual([0, 1, 1, 1]);
  for (const { exitCode, stderr } of results) {
    if (exitCode !== 0) expect(stderr).toContain("container with given ID already exists: c1");
  }
  expect((await fixture.state("c1")).status).toBe("created");
  await fixture.ok(["delete", "c1"]);
  expect(fixture.leftovers()).toEqual([]);
});
