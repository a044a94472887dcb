import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { logLines, type RuntimeFixture, runtimeFixture } from "../harness/runtime-fixture.ts";

let fixture: RuntimeFixture;
beforeEach(() => {
  fixture = runtimeFixture();
});
afterEach(() => {
  fixture[Symbol.dispose]();
});

describe("life of a container", () => {
  test("create, start, kill, delete", async () => {
    fixture.writeBundle(["sleep", "1000"], { spec: { annotations: { a: "b" } } });
    const pidFile = fixture.path("pid");
    await fixture.ok(["create", "--bundle", fixture.bundle, "--pid-file", pidFile, "c1"]);
    const created = await fixture.state("c1");
    expect(created).toMatchObject({ id: "c1", status: "created", bundle: fixture.bundle, annotations: { a: "b" } });
    expect(created["rootfs"]).toBe(join(fixture.bundle, "rootfs"));
    expect(readFileSync(pidFile, "utf8")).toBe(String(created.pid));
    expect(readFileSync(`/proc/${created.pid}/cmdline`, "utf8")).toContain("\0shim\0");

    await fixture.ok(["start", "c1"]);
    expect((await fixture.state("c1")).status).toBe("running");
    expect(JSON.parse(await fixture.ok(["list", "--format", "json"]))).toMatchObject([{ id: "c1", status: "running" }]);
    expect(await fixture.ok(["list", "-q"])).toBe("c1\n");
    expect(await fixture.ok(["list"])).toMatch(/^ID +PID +STATUS +BUNDLE +CREATED +OWNER\nc1 +\d+ +running /);
    expect(JSON.parse(await fixture.ok(["ps", "--format", "json", "c1"]))).toEqual([created.pid]);
    expect(await fixture.ok(["ps", "c1", "-ef"])).toBe("PID CMD\n1 init -ef\n");

    await fixture.ok(["kill", "c1", "KILL"]);
    await fixture.until("c1", "stopped");
    expect((await fixture.state("c1")).pid).toBe(0);
    await fixture.ok(["delete", "c1"]);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("pause and resume", async () => {
    fixture.writeBundle(["sleep", "1000"]);
    await fixture.ok(["run", "--detach", "c1"]);
    await fixture.ok(["pause", "c1"]);
    expect((await fixture.state("c1")).status).toBe("paused");
    expect(await fixture.run(["exec", "c1", "true"])).toMatchObject({ exitCode: 255 });
    await fixture.ok(["resume", "c1"]);
    expect((await fixture.state("c1")).status).toBe("running");
    await fixture.ok(["delete", "--force", "c1"]);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a created container is paused and resumed too, and waits for its start as before", async () => {
    fixture.writeBundle(["sleep", "1000"]);
    await fixture.ok(["create", "c1"]);
    await fixture.ok(["pause", "c1"]);
    expect((await fixture.state("c1")).status).toBe("paused");
    expect(await fixture.run(["start", "c1"])).toMatchObject({ exitCode: 1 });
    await fixture.ok(["resume", "c1"]);
    expect((await fixture.state("c1")).status).toBe("created");
    await fixture.ok(["start", "c1"]);
    expect((await fixture.state("c1")).status).toBe("running");
    await fixture.ok(["delete", "--force", "c1"]);
  });

  test("exec --ignore-paused waits until the container is resumed, or has ended", async () => {
    fixture.writeBundle(["sleep", "1000"]);
    await fixture.ok(["run", "--detach", "c1"]);
    await fixture.ok(["pause", "c1"]);
    const order: string[] = [];
    const waiting = fixture.run(["exec", "--ignore-paused", "c1", "echo", "went on"]);
    const executed = waiting.then(() => order.push("executed"));
    // Long enough for an exec that does not wait.
    expect(await fixture.run(["exec", "c1", "true"])).toMatchObject({ exitCode: 255 });
    order.push("resumed");
    await fixture.ok(["resume", "c1"]);
    await executed;
    expect(await waiting).toMatchObject({ exitCode: 0, stdout: "went on\n" });
    expect(order).toEqual(["resumed", "executed"]);

    await fixture.ok(["pause", "c1"]);
    const lost = fixture.run(["exec", "--ignore-paused", "c1", "true"]);
    await fixture.ok(["kill", "--all", "c1", "KILL"]);
    expect(await lost).toMatchObject({ exitCode: 255, stderr: expect.stringContaining("stopped") });
    await fixture.ok(["delete", "--force", "c1"]);
  });

  test("delete --force ends a running container, and is no error for an absent one", async () => {
    fixture.writeBundle(["sleep", "1000"]);
    await fixture.ok(["run", "-d", "c1"]);
    await fixture.ok(["delete", "--force", "c1"]);
    await fixture.ok(["delete", "--force", "c1"]);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a created container can be deleted without force", async () => {
    fixture.writeBundle(["true"]);
    await fixture.ok(["create", "c1"]);
    await fixture.ok(["delete", "c1"]);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a shim that is killed is a container that has stopped", async () => {
    fixture.writeBundle(["sleep", "1000"]);
    await fixture.ok(["run", "-d", "c1"]);
    process.kill((await fixture.state("c1")).pid, "SIGKILL");
    await fixture.until("c1", "stopped");
    await fixture.ok(["delete", "c1"]);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a sandbox process that is killed is a container that has stopped", async () => {
    // Names a file of the fixture, which kills it in the end as the VM that it stands for would have.
    fixture.writeBundle(["tail", "-f", fixture.path("config.toml")]);
    await fixture.ok(["run", "-d", "c1"]);
    const record = JSON.parse(readFileSync(join(fixture.root, "c1", "state.json"), "utf8"));
    process.kill(record.vm.sandbox.pid, "SIGKILL");
    await fixture.until("c1", "stopped");
    const { exitCode, stderr } = await fixture.run(["kill", "c1", "9"]);
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining("container not running")]);
    await fixture.ok(["delete", "c1"]);
    expect(fixture.leftovers().filter((line) => !line.includes("tail"))).toEqual([]);
  });

  test("the shim is in the container's cgroup and network namespace, and keeps nothing of create's open", async () => {
    fixture.writeBundle(["sleep", "1000"]);
    await fixture.ok(["create", "c1"]);
    const { pid } = await fixture.state("c1");
    expect(readFileSync(`/proc/${pid}/cgroup`, "utf8")).toContain("hearth-test-");
    expect(readlinkSync(`/proc/${pid}/ns/net`)).not.toBe(readlinkSync("/proc/self/ns/net"));
    expect(readlinkSync(`/proc/${pid}/cwd`)).toBe("/");
    const open = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
    expect(open.filter((path) => path.startsWith(fixture.root))).toEqual([]);
    await fixture.ok(["delete", "c1"]);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a cgroup that is frozen is an error, and stays", async () => {
    fixture.writeBundle(["true"], { cgroup: "frozen" });
    const { linux } = JSON.parse(readFileSync(join(fixture.bundle, "config.json"), "utf8"));
    const isV1 = existsSync("/sys/fs/cgroup/freezer");
    const dir = join("/sys/fs/cgroup", isV1 ? "freezer" : "", linux.cgroupsPath);
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, isV1 ? "freezer.state" : "cgroup.freeze"), isV1 ? "FROZEN" : "1");
    expect(await fixture.run(["create", "c1"])).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining("container's cgroup unexpectedly frozen"),
    });
    expect(existsSync(dir)).toBe(true);
    rmdirSync(dir);
  });

  test("a cgroup that is another container's is refused, and so is one above it; they and it stay as they were", async () => {
    fixture.writeBundle(["sleep", "1000"], { cgroup: "taken/inner" });
    await fixture.ok(["run", "--detach", "c1"]);
    for (const cgroup of ["taken/inner", "taken"]) {
      fixture.writeBundle(["true"], { cgroup });
      expect(await fixture.run(["create", "c2"])).toMatchObject({
        exitCode: 1,
        stderr: expect.stringMatching(/container's cgroup is not empty: [1-9][0-9]* process\(es\) found/),
      });
    }
    expect((await fixture.state("c1")).status).toBe("running");
    await fixture.ok(["delete", "--force", "c1"]);
    await fixture.ok(["create", "c2"]);
    await fixture.ok(["delete", "c2"]);
    expect(fixture.leftovers().filter((line) => !line.includes("cgroup"))).toEqual([]);
  });

  test("cgroups that somebody made below the container's go with it", async () => {
    fixture.writeBundle(["sleep", "1000"], { cgroup: "outer" });
    await fixture.ok(["create", "c1"]);
    const { linux } = JSON.parse(readFileSync(join(fixture.bundle, "config.json"), "utf8"));
    const hierarchy = existsSync("/sys/fs/cgroup/freezer") ? "freezer" : "";
    const dir = join("/sys/fs/cgroup", hierarchy, linux.cgroupsPath);
    mkdirSync(join(dir, "a/b"), { recursive: true });
    await fixture.ok(["delete", "c1"]);
    expect(existsSync(dir)).toBe(false);
  });

  test("start, state, kill and delete leave nobody holding their output pipes", async () => {
    fixture.writeBundle(["sleep", "1000"]);
    await fixture.ok(["create", "c1"]);
    for (const args of [
      ["start", "c1"],
      ["state", "c1"],
      ["exec", "--detach", "c1", "sleep", "1"],
      ["kill", "c1", "9"],
    ]) {
      const piped = args[0] !== "exec";
      const stdio: ["ignore", "pipe" | "ignore", "pipe" | "ignore"] = piped
        ? ["ignore", "pipe", "pipe"]
        : ["ignore", "ignore", "ignore"];
      const child = Bun.spawn(fixture.argv(...args), { env: fixture.env, stdio });
      const ends = [child.stdout, child.stderr].map((stream) =>
        stream === undefined ? "" : new Response(stream).text(),
      );
      await Promise.all([...ends, child.exited]);
      expect([args[0], child.exitCode]).toEqual([args[0], 0]);
    }
    await fixture.until("c1", "stopped");
    await fixture.ok(["delete", "c1"]);
    expect(fixture.leftovers()).toEqual([]);
  });

  test("update passes limits on exactly", async () => {
    fixture.writeBundle(["sleep", "1000"]);
    await fixture.ok(["run", "-d", "c1"]);
    await fixture.ok(["update", "--resources", "-", "c1"], '{"memory":{"limit":9223372036854771712},"future":1}');
    const updated = (): string => readFileSync(fixture.path("script.json.updated"), "utf8");
    expect(updated()).toBe('{"memory":{"limit":9223372036854771712},"future":1}');
    await fixture.ok(["update", "--memory", "1048576", "--pids-limit", "5", "c1"]);
    expect(JSON.parse(updated())).toEqual({ memory: { limit: 1048576 }, pids: { limit: 5 } });
    await fixture.ok(["update", "--cpu-burst", "0", "--cpu-idle", "0", "--kernel-memory", "1m", "c1"]);
    expect(JSON.parse(updated())).toEqual({ cpu: { burst: 0, idle: 0 }, memory: { kernel: 1048576 } });
    expect((await fixture.run(["update", "c1"])).stderr).toContain("nothing to update");
    await fixture.ok(["delete", "-f", "c1"]);
  });

  test("warnings of the sandbox go to the log, as JSON lines", async () => {
    fixture.writeBundle(["true"]);
    fixture.script({ warnings: ["process.apparmorProfile x is not applied"] });
    const log = fixture.path("log.json");
    await fixture.ok(["--log", log, "--log-format", "json", "create", "c1"]);
    fixture.script({});
    expect(logLines(log)).toContainEqual(
      expect.objectContaining({ level: "warning", msg: "process.apparmorProfile x is not applied" }),
    );
    const failed = await fixture.run(["--log", log, "--log-format", "json", "create", "c1"]);
    expect(failed.exitCode).toBe(1);
    expect(failed.stderr).toBe("hearth-runtime: create failed: container with given ID already exists: c1\n");
    expect(logLines(log).at(-1)).toMatchObject({
      level: "error",
      msg: "create failed: container with given ID already exists: c1",
    });
    await fixture.ok(["delete", "c1"]);
    expect(fixture.leftovers()).toEqual([]);
  });
});

test("a VM that is gone while the shim still looks alive is a container that does not run", async () => {
  fixture.writeBundle(["sleep", "1000"]);
  await fixture.ok(["create", "c1"]);
  const path = join(fixture.root, "c1", "state.json");
  const record = JSON.parse(readFileSync(path, "utf8"));
  const socket = record.vm.socket;
  writeFileSync(path, JSON.stringify({ ...record, status: "running", vm: { ...record.vm, socket: `${socket}.gone` } }));
  for (const [args, status] of [
    [["exec", "c1", "true"], 255],
    [["exec", "--detach", "c1", "true"], 255],
    [["pause", "c1"], 1],
    [["kill", "c1", "9"], 1],
    [["ps", "c1"], 1],
  ] as const) {
    const { exitCode, stderr } = await fixture.run(args);
    expect([args, exitCode, stderr]).toEqual([args, status, expect.stringContaining("container not running: c1")]);
  }
  writeFileSync(path, JSON.stringify(record));
  await fixture.ok(["delete", "c1"]);
  expect(fixture.leftovers()).toEqual([]);
});

describe("wrong state", () => {
  test("each command says so, in the words that engines look for, and changes nothing", async () => {
    fixture.writeBundle(["sleep", "1000"]);
    const fails = async (args: string[], message: string, exitCode = 1): Promise<void> => {
      const result = await fixture.run(args);
      expect([args, result.exitCode, result.stderr, result.stdout]).toEqual([
        args,
        exitCode,
        expect.stringContaining(message),
        "",
      ]);
      expect(result.stderr.trim().split("\n")).toHaveLength(1);
    };
    for (const command of ["state", "start", "kill", "delete", "pause", "resume", "ps"]) {
      await fails([command, "c1"], "container c1 does not exist");
    }
    await fails(["exec", "c1", "true"], "exec failed: container c1 does not exist", 255);
    await fixture.ok(["create", "c1"]);
    await fails(["create", "c1"], "container with given ID already exists");
    await fails(["run", "c1"], "container with given ID already exists");
    await fails(["resume", "c1"], "container not paused");
    await fixture.ok(["exec", "c1", "true"]);
    await fixture.ok(["start", "c1"]);
    await fails(["start", "c1"], "cannot start an already running container");
    await fails(["delete", "c1"], "cannot delete container c1 that is not stopped: running");
    await fails(["kill", "c1", "BOGUS"], 'msg="unknown signal \\"BOGUS\\""');
    await fails(["kill", "c1", "999"], 'unknown signal \\"999\\"');
    await fixture.ok(["kill", "c1", "0"]);
    expect((await fixture.state("c1")).status).toBe("running");
    await fixture.ok(["kill", "--all", "c1", "9"]);
    await fixture.until("c1", "stopped");
    await fails(["kill", "c1", "9"], "container not running");
    await fails(["pause", "c1"], "container not running");
    await fixture.ok(["kill", "--all", "c1", "9"]);
    await fails(["start", "c1"], "cannot start a container that has stopped");
    await fails(["exec", "c1", "true"], "cannot exec in a stopped container", 255);
    await fails(["update", "--memory", "5", "c1"], "container not running");
    await fails(["events", "--stats", "c1"], "container with id c1 is not running");
    await fixture.ok(["delete", "c1"]);
    expect(fixture.leftovers()).toEqual([]);
  }, 60_000);
});

describe("hooks", () => {
  const script = (name: string, text: string): string => {
    const path = fixture.path(name);
    writeFileSync(path, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
    return path;
  };

  test("each gets the state on standard input, in the spec's order", async () => {
    const out = fixture.path("hooks.log");
    const path = script("hook", `echo "$1 $HOOK $(pwd) $(cat)" >> ${out}`);
    const hook = (name: string): object[] => [
      { path, args: ["hook", name], env: [`HOOK=${name}`, "PATH=/usr/bin:/bin"] },
    ];
    const points = ["prestart", "createRuntime", "poststart", "poststop"];
    const hooks = Object.fromEntries(points.map((point) => [point, hook(point)]));
    fixture.writeBundle(["sleep", "1000"], { spec: { hooks } });
    await fixture.ok(["create", "c1"]);
    const { pid } = await fixture.state("c1");
    await fixture.ok(["start", "c1"]);
    await fixture.ok(["delete", "--force", "c1"]);
    const lines = readFileSync(out, "utf8").trim().split("\n");
    const states = lines.map((line) => [line.split(" ").slice(0, 3), JSON.parse(line.slice(line.indexOf("{")))]);
    expect(states).toEqual(
      points.map((point, index) => [
        [point, point, fixture.bundle],
        {
          ociVersion: "1.3.0",
          id: "c1",
          status: ["creating", "creating", "running", "stopped"][index],
          ...(point === "poststop" ? {} : { pid }),
          bundle: fixture.bundle,
          annotations: {},
        },
      ]),
    );
    expect(fixture.leftovers()).toEqual([]);
  });

  test.each(["prestart", "createRuntime"])("a failing %s hook undoes the create, then poststop runs", async (point) => {
    const out = fixture.path(`${point}.poststop`);
    const fail = script("fail", "echo out; echo err >&2; exit 3");
    const hooks = { [point]: [{ path: fail }], poststop: [{ path: script("after", `cat > ${out}`) }] };
    fixture.writeBundle(["true"], { spec: { hooks } });
    const { exitCode, stderr } = await fixture.run(["create", "c1"]);
    expect(exitCode).toBe(1);
    expect(stderr).toContain(`error running ${point} hook #0: ${fail}: exit status 3, stdout: out, stderr: err`);
    expect(JSON.parse(readFileSync(out, "utf8"))).toMatchObject({ id: "c1", status: "stopped" });
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a hook that is missing, and one that takes too long", async () => {
    fixture.writeBundle(["true"], { spec: { hooks: { prestart: [{ path: "/nowhere" }] } } });
    expect((await fixture.run(["create", "c1"])).stderr).toContain("error running prestart hook #0: /nowhere: ENOENT");
    const path = script("slow", "exec sleep 100");
    fixture.writeBundle(["true"], { spec: { hooks: { prestart: [{ path, timeout: 1 }] } } });
    expect((await fixture.run(["create", "c1"])).stderr).toContain("within 1000 ms");
    expect(fixture.leftovers()).toEqual([]);
  });

  test("a failing poststart hook is an error and the end of the container, whose poststop hooks run", async () => {
    const out = fixture.path("stopped");
    const hooks = {
      poststart: [{ path: script("fail", "exit 3") }],
      poststop: [{ path: script("stop", `echo stop >> ${out}`) }],
    };
    fixture.writeBundle(["sleep", "1000"], { spec: { hooks } });
    await fixture.ok(["create", "c1"]);
    expect(await fixture.run(["start", "c1"])).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining("hook #0"),
    });
    expect(await fixture.run(["run", "--detach", "c2"])).toMatchObject({ exitCode: 1 });
    expect(fixture.leftovers()).toEqual([]);
    expect(readFileSync(out, "utf8")).toBe("stop\nstop\n");
  });

  test("a failing poststop hook is a warning, and the next one runs", async () => {
    const out = fixture.path("second");
    const poststop = [{ path: script("fail", "exit 3") }, { path: script("second", `touch ${out}`) }];
    fixture.writeBundle(["true"], { spec: { hooks: { poststop } } });
    await fixture.ok(["create", "c1"]);
    const { exitCode, stderr } = await fixture.run(["delete", "c1"]);
    expect([exitCode, stderr]).toEqual([0, expect.stringContaining("level=warning")]);
    expect(existsSync(out)).toBe(true);
    expect(fixture.leftovers()).toEqual([]);
  });
});

describe("pods", () => {
  test("a member joins the VM of its sandbox, and the VM ends with the last of them", async () => {
    const annotate = (type: string): { spec: object } => ({
      spec: {
        annotations: { "io.kubernetes.cri.container-type": type, "io.kubernetes.cri.sandbox-id": "pod" },
      },
    });
    fixture.writeBundle(["sleep", "1000"], annotate("sandbox"));
    await fixture.ok(["create", "pod"]);
    // With a cgroup of its own, as engines give it: the pod's cannot be removed while the VM runs in it.
    fixture.writeBundle(["echo", "member"], { ...annotate("container"), cgroup: "member" });
    const vmOf = (id: string): string => JSON.parse(readFileSync(join(fixture.root, id, "state.json"), "utf8")).vm.id;
    expect(await fixture.ok(["run", "--keep", "member"])).toBe("member\n");
    expect(vmOf("member")).toBe(vmOf("pod"));
    await fixture.ok(["delete", "member"]);
    expect((await fixture.state("pod")).status).toBe("created");

    fixture.script({ fail: { connectNetwork: "die", commitContainer: { code: "internal", message: "no" } } });
    expect((await fixture.run(["create", "member"])).exitCode).toBe(1);
    fixture.script({});
    expect((await fixture.state("pod")).status).toBe("created");
    await fixture.ok(["delete", "pod"]);
    expect(fixture.leftovers()).toEqual([]);
  });
});
