/**
 * Through a real containerd: the guest's kernel seen from inside, cold and from the pool, exact exit codes, bytes in and
 * out, exec, and nothing left afterwards. With HEARTH_TEST_RUNTIME=/usr/sbin/runc the same steps run on runc, which
 * proves the test itself; the kernel is then the host's.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { release } from "node:os";
import { join, resolve } from "node:path";
import { readManifest } from "../../guest/manifest.ts";
import { type Containerd, startContainerd, TEST_IMAGE } from "../harness/containerd.ts";
import { type Hearth, type OpenHearth, openHearth } from "../harness/hearth.ts";
import { mountsBelow } from "../harness/leftovers.ts";
import { type Pool, startPool, vmRecords } from "../harness/pool.ts";
import { until } from "../harness/until.ts";

const OTHER_RUNTIME = process.env["HEARTH_TEST_RUNTIME"];
const MIB = 1024 * 1024;
const HOOK_TIMEOUT_MS = 120_000;
const POOL_SIZE = 1;
const STOP_TIMEOUT_MS = 20_000;

interface Engine {
  readonly opened: OpenHearth;
  readonly hearth: Hearth;
  readonly containerd: Containerd;
  readonly pool: Pool | undefined;
}

async function startEngine(pooled: boolean): Promise<Engine> {
  // Held-up requests wait for the pool's refill, so that every container of the pool's tests comes from it.
  const factory = pooled ? { vm_cache_number: POOL_SIZE, vm_cache_timeout_ms: 60_000 } : {};
  const opened = openHearth({ config: { factory } });
  const { hearth } = opened;
  const containerd = await startContainerd(join(hearth.dir, "containerd"), { env: hearth.env });
  const pool = pooled && OTHER_RUNTIME === undefined ? startPool(hearth, POOL_SIZE) : undefined;
  return { opened, hearth, containerd, pool };
}

async function guestKernel(): Promise<string> {
  const manifest = await readManifest(resolve(import.meta.dir, "../../build/guest"));
  if (manifest === undefined) throw new Error("the guest is not built");
  return OTHER_RUNTIME === undefined ? manifest.kernelVersion : release();
}

describe.each([
  ["cold", false],
  ["from the pool", true],
] as const)("%s", (_name, pooled) => {
  let engine: Engine;

  beforeAll(async () => {
    engine = await startEngine(pooled);
  }, HOOK_TIMEOUT_MS);

  afterAll(async () => {
    await engine.containerd[Symbol.asyncDispose]();
    await engine.pool?.stop();
    await engine.opened.close();
  }, HOOK_TIMEOUT_MS);

  const runtimePath = (): string => OTHER_RUNTIME ?? engine.hearth.runtimePath;
  const runArgs = (id: string, ...flags: string[]): string[] => [
    "run",
    "--rm",
    "--runc-binary",
    runtimePath(),
    ...flags,
    TEST_IMAGE,
    id,
  ];

  /** The engine's own log and the VMs' are shown when something fails. */
  function step(name: string, run: () => Promise<void>): void {
    test(name, async () => {
      try {
        await engine.pool?.idle(POOL_SIZE);
        await run();
        expectNothingLeft();
      } catch (thrown) {
        const engineLog = engine.containerd.log().split("\n").slice(-40).join("\n");
        process.stderr.write(`${engine.opened.describe()}${engine.pool?.log() ?? ""}${engineLog}\n`);
        throw thrown;
      }
    });
  }

  /** Everything of a container is gone when the engine says that it deleted it: no VM but the pool's, no mount, no state. */
  function expectNothingLeft(): void {
    const { hearth, containerd } = engine;
    const used = vmRecords(hearth.runDir).filter(({ state }) => state !== "idle" && state !== "booting");
    expect(used).toEqual([]);
    const state = join(hearth.dir, "containerd/state/io.containerd.runtime.v2.task", containerd.namespace);
    expect(existsSync(state) ? readdirSync(state) : []).toEqual([]);
    expect(mountsBelow(join(hearth.dir, "containerd/state"))).toEqual([]);
  }

  step("the container runs in the guest's kernel", async () => {
    const { stdout, stderr, status } = await engine.containerd.ctr([...runArgs("kernel"), "uname", "-r"]);
    expect({ stdout, stderr, status }).toEqual({ stdout: `${await guestKernel()}\n`, stderr: "", status: 0 });
  });

  step("exit codes are exact", async () => {
    const ends: readonly (readonly [string, number])[] = [
      ["exit 42", 42],
      ["exit 255", 255],
      ["sh -c 'kill -TERM $$'; exit $?", 143],
    ];
    for (const [script, code] of ends) {
      await engine.pool?.idle(POOL_SIZE);
      const { status } = await engine.containerd.ctr([...runArgs(`exit-${code}`), "sh", "-c", script]);
      expect({ script, status }).toEqual({ script, status: code });
    }
  });

  step("a program that is not there is an error and leaves nothing", async () => {
    const { status, stderr } = await engine.containerd.ctr([...runArgs("missing"), "no-such-program"]);
    expect(status).not.toBe(0);
    expect(stderr).toContain("executable file not found in $PATH");
    const { stdout } = await engine.containerd.mustCtr(["tasks", "list", "--quiet"]);
    expect(stdout).toBe("");
  });

  step("1 MiB of random bytes goes in and comes out the same", async () => {
    const sent = new Uint8Array(MIB);
    for (let at = 0; at < MIB; at += 65_536) crypto.getRandomValues(sent.subarray(at, at + 65_536));
    const argv = ["ctr", "--address", engine.containerd.socket, "--namespace", engine.containerd.namespace];
    const child = Bun.spawn([...argv, ...runArgs("bytes"), "cat"], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    });
    child.stdin.write(sent);
    await child.stdin.flush();
    const received = Buffer.alloc(MIB);
    let at = 0;
    for await (const chunk of child.stdout) {
      received.set(chunk, at);
      at += chunk.length;
      // Not before: ctr forgets an end of input that comes while it still starts the task.
      if (at === MIB) await child.stdin.end();
    }
    expect(await child.exited).toBe(0);
    expect(at).toBe(MIB);
    expect(received.equals(sent)).toBe(true);
  });

  step("standard output and error are kept apart", async () => {
    const { stdout, stderr, status } = await engine.containerd.ctr([
      ...runArgs("streams"),
      "sh",
      "-c",
      "echo to-stdout; echo to-stderr >&2",
    ]);
    expect({ stdout, stderr, status }).toEqual({ stdout: "to-stdout\n", stderr: "to-stderr\n", status: 0 });
  });

  step("exec runs in the container, kill ends it, delete leaves nothing", async () => {
    const { containerd } = engine;
    const id = "lived-in";
    using events = followEvents(containerd);
    await containerd.mustCtr(["run", "--detach", "--runc-binary", runtimePath(), TEST_IMAGE, id, "sleep", "1000"]);
    const exec = (name: string, ...argv: string[]) => containerd.ctr(["tasks", "exec", "--exec-id", name, id, ...argv]);
    expect(await exec("one", "uname", "-r")).toMatchObject({ status: 0, stdout: `${await guestKernel()}\n` });
    expect(await exec("two", "sh", "-c", "echo out; echo err >&2; exit 7")).toMatchObject({
      status: 7,
      stdout: "out\n",
      stderr: "err\n",
    });
    // The container's own first process, seen from the exec'd one.
    expect(await exec("three", "cat", "/proc/1/cmdline")).toMatchObject({ status: 0, stdout: "sleep\x001000\0" });
    expect((await exec("four", "no-such-program")).stderr).toContain("executable file not found in $PATH");
    await containerd.mustCtr(["tasks", "pause", id]);
    expect((await containerd.mustCtr(["tasks", "list"])).stdout).toMatch(/lived-in\s+\d+\s+PAUSED/);
    expect((await exec("five", "true")).status).not.toBe(0);
    await containerd.mustCtr(["tasks", "resume", id]);
    expect((await containerd.mustCtr(["tasks", "metrics", id])).stdout).toMatch(/memory\.usage_in_bytes\s+[1-9]/);
    expect((await containerd.mustCtr(["tasks", "list"])).stdout).toMatch(/lived-in\s+\d+\s+RUNNING/);
    await containerd.mustCtr(["tasks", "kill", "--signal", "SIGKILL", id]);
    await stopped(containerd, id);
    const { stderr } = await containerd.mustCtr(["tasks", "delete", id]);
    expect(stderr).toContain("non-zero exit code 137");
    await containerd.mustCtr(["containers", "delete", id]);
    const topics = ["create", "start", "exec-added", "exec-started", "paused", "resumed", "exit", "delete"];
    await until(events.topics, (seen) => topics.every((topic) => seen.includes(`/tasks/${topic}`)));
  });

  step("attach shows what a container writes from then on", async () => {
    const { containerd } = engine;
    const id = "attached-to";
    const script = "while :; do echo tick; sleep 0.1; done";
    const flags = ["--detach", "--runc-binary", runtimePath()];
    await containerd.mustCtr(["run", ...flags, TEST_IMAGE, id, "sh", "-c", script]);
    const argv = ["ctr", "--address", containerd.socket, "--namespace", containerd.namespace, "tasks", "attach", id];
    const attached = Bun.spawn(argv, { stdin: "ignore", stdout: "pipe", stderr: "inherit" });
    let seen = "";
    for await (const chunk of attached.stdout) {
      seen += new TextDecoder().decode(chunk);
      if (seen.includes("tick\ntick\n")) break;
    }
    expect(seen).toContain("tick\ntick\n");
    await containerd.mustCtr(["tasks", "kill", "--signal", "SIGKILL", id]);
    // It ends as the container ends.
    expect(await attached.exited).toBe(137);
    await containerd.ctr(["tasks", "delete", id]);
    await containerd.mustCtr(["containers", "delete", id]);
  });
});

/** What `ctr events` shows, from now on. */
function followEvents(containerd: Containerd): Disposable & { topics(): Promise<string> } {
  const child = Bun.spawn(["ctr", "--address", containerd.socket, "--namespace", containerd.namespace, "events"], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  });
  let seen = "";
  void (async () => {
    for await (const chunk of child.stdout) seen += new TextDecoder().decode(chunk);
  })();
  return { topics: async () => seen, [Symbol.dispose]: () => child.kill() };
}

/** Resolves when the task has ended; fails after a time that even an emulated guest does not need. */
async function stopped(containerd: Containerd, id: string): Promise<void> {
  const deadline = performance.now() + STOP_TIMEOUT_MS;
  for (;;) {
    const { stdout } = await containerd.mustCtr(["tasks", "list"]);
    if (new RegExp(`^${id}\\s+\\d+\\s+STOPPED`, "m").test(stdout)) return;
    if (performance.now() > deadline) throw new Error(`task ${id} has not stopped:\n${stdout}`);
  }
}
