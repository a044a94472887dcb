/** The agent with real crun on the host: life of containers and exec processes, their streams, ends and errors. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { rejection } from "../harness/rejection.ts";
import {
  type ConfigChanges,
  type HostAgent,
  type Inside,
  newContainerId,
  type RunningContainer,
  readAll,
  runContainer,
  startHostAgent,
} from "./host-agent.ts";

let agent: HostAgent;
beforeAll(async () => {
  agent = await startHostAgent();
});
afterAll(async () => {
  await agent[Symbol.asyncDispose]();
});

const run = (args: readonly string[], changes?: ConfigChanges): Promise<RunningContainer> =>
  runContainer(agent, args, changes);

describe("init process", () => {
  test("output, exit status, repeated waits, end of stream", async () => {
    await using c = await run(["sh", "-c", "echo out; echo err >&2; exit 7"]);
    const { agent: api } = agent.client;
    expect((await readAll(agent.client, c.id, c.id)).toString()).toBe("out\n");
    expect((await readAll(agent.client, c.id, c.id, "stderr")).toString()).toBe("err\n");
    expect((await api.waitProcess(c.ids)).status).toBe(7);
    expect((await api.waitProcess(c.ids)).status).toBe(7);
    expect(await rejection(api.readStdout({ ...c.ids, len: 10 }))).toMatchObject({ code: "out-of-range" });
  });

  test("a signal ends it with 128 more", async () => {
    await using c = await run(["sleep", "1000"]);
    const { agent: api } = agent.client;
    const waiting = api.waitProcess(c.ids);
    await api.signalProcess({ ...c.ids, signal: 9 });
    expect((await waiting).status).toBe(137);
    expect(await rejection(api.signalProcess({ ...c.ids, signal: 9 }))).toMatchObject({
      code: "failed-precondition",
      message: expect.stringContaining("process already finished"),
    });
  });

  test("stdin to stdout, several MiB, exact", async () => {
    await using c = await run(["cat"]);
    const { agent: api } = agent.client;
    const sent = Buffer.alloc(5 * 1024 * 1024 + 17);
    for (let at = 0; at < sent.length; at++) sent[at] = (at * 31 + (at >> 8)) & 0xff;
    const received = readAll(agent.client, c.id, c.id);
    for (let at = 0; at < sent.length; at += 200_000) {
      await api.writeStdin({ ...c.ids, data: sent.subarray(at, at + 200_000) });
    }
    await api.closeStdin(c.ids);
    const digest = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
    expect(digest(await received)).toBe(digest(sent));
    expect((await api.waitProcess(c.ids)).status).toBe(0);
  });
});

/** What there is once every process that ended has been collected; a zombie that stays makes the test run out of time. */
async function allCollected(): Promise<Inside> {
  for (;;) {
    const inside = await agent.lookInside();
    if (inside.zombies.length === 0) return inside;
  }
}

const bytes = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));

/** Starts an exec process in a container. */
async function exec(containerId: string, execId: string, args: readonly string[], changes: object = {}) {
  const processJson = bytes({ args, cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 }, ...changes });
  await agent.client.agent.execProcess({ containerId, execId, processJson });
  return { containerId, execId };
}

describe("exec", () => {
  test("in a container that was created and not started, which starts all the same", async () => {
    const { agent: api } = agent.client;
    const id = newContainerId();
    await api.createContainer({ containerId: id, execId: id, ociJson: agent.config(["sh", "-c", "exit 7"]) });
    try {
      const ids = await exec(id, "e", ["sh", "-c", "exit 42"]);
      expect((await api.waitProcess(ids)).status).toBe(42);
      await api.startContainer({ containerId: id });
      expect((await api.waitProcess({ containerId: id, execId: id })).status).toBe(7);
    } finally {
      await api.removeContainer({ containerId: id, timeout: 5 });
    }
  });

  test("streams, status, and the id is free again after the end", async () => {
    await using c = await run(["sleep", "1000"]);
    const { agent: api } = agent.client;
    for (const code of [3, 4]) {
      const ids = await exec(c.id, "e", ["sh", "-c", `cat; echo err >&2; exit ${code}`]);
      await api.writeStdin({ ...ids, data: Buffer.from("hello") });
      await api.closeStdin(ids);
      expect((await readAll(agent.client, c.id, "e")).toString()).toBe("hello");
      expect((await readAll(agent.client, c.id, "e", "stderr")).toString()).toBe("err\n");
      expect((await api.waitProcess(ids)).status).toBe(code);
    }
  });

  test("an id in use is refused", async () => {
    await using c = await run(["sleep", "1000"]);
    await exec(c.id, "e", ["sleep", "1000"]);
    expect(await rejection(exec(c.id, "e", ["true"]))).toMatchObject({ code: "already-exists" });
    expect(await rejection(exec(c.id, c.id, ["true"]))).toMatchObject({ code: "already-exists" });
  });

  test("in a container that has ended or was not started is refused", async () => {
    await using c = await run(["true"]);
    await agent.client.agent.waitProcess(c.ids);
    expect(await rejection(exec(c.id, "e", ["true"]))).toMatchObject({
      code: "failed-precondition",
      message: expect.stringContaining("container not running"),
    });
  });

  test("environment, user and directory are those of the process", async () => {
    await using c = await run(["sleep", "1000"]);
    const changes = { cwd: "/tmp", user: { uid: 1000, gid: 100, additionalGids: [5, 7] }, env: ["PATH=/bin", "A=b c"] };
    await exec(c.id, "e", ["sh", "-c", "id -u; id -g; id -G; pwd; echo $A"], changes);
    expect((await readAll(agent.client, c.id, "e")).toString()).toBe("1000\n100\n100 5 7\n/tmp\nb c\n");
  });

  test("no signal is ignored or blocked in what crun starts", async () => {
    await using c = await run(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
    const none = "0000000000000000";
    const wanted = `SigBlk:\t${none}\nSigIgn:\t${none}\n`;
    expect((await readAll(agent.client, c.id, c.id)).toString()).toBe(wanted);
    await using host = await run(["sleep", "1000"]);
    await exec(host.id, "e", ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
    expect((await readAll(agent.client, host.id, "e")).toString()).toBe(wanted);
  });

  test("open files are limited, unless the configuration says how", async () => {
    await using c = await run(["sh", "-c", "ulimit -n; read x"]);
    expect(Buffer.from((await agent.client.agent.readStdout({ ...c.ids, len: 100 })).data).toString()).toBe("1024\n");
    await exec(c.id, "e", ["sh", "-c", "ulimit -n"]);
    expect((await readAll(agent.client, c.id, "e")).toString()).toBe("1024\n");
    await exec(c.id, "f", ["sh", "-c", "ulimit -n"], { rlimits: [{ type: "RLIMIT_NOFILE", soft: 77, hard: 99 }] });
    expect((await readAll(agent.client, c.id, "f")).toString()).toBe("77\n");
  });

  test("a descriptor of the agent's is in no process", async () => {
    await using c = await run(["sleep", "1000"]);
    await exec(c.id, "e", ["ls", "/proc/self/fd"]);
    // The fourth is the directory that ls reads.
    expect((await readAll(agent.client, c.id, "e")).toString()).toBe("0\n1\n2\n3\n");
  });
});

describe("output", () => {
  test("of processes that end at once is never lost", async () => {
    await using c = await run(["sleep", "1000"]);
    const texts = await Promise.all(
      Array.from({ length: 50 }, async (_, index) => {
        const ids = await exec(c.id, `q${index}`, ["sh", "-c", `echo out ${index}; echo err ${index} >&2`]);
        await agent.client.agent.waitProcess(ids);
        const out = await readAll(agent.client, c.id, ids.execId);
        return `${out}${await readAll(agent.client, c.id, ids.execId, "stderr")}`;
      }),
    );
    expect(texts).toEqual(Array.from({ length: 50 }, (_, index) => `out ${index}\nerr ${index}\n`));
  }, 30_000);

  test("that nobody reads stops the process and nothing else", async () => {
    await using c = await run(["sh", "-c", "seq 1 1000000; echo done"]);
    await using other = await run(["echo", "lively"]);
    expect((await readAll(agent.client, other.id, other.id)).toString()).toBe("lively\n");
    const state = await Promise.race([
      agent.client.agent.waitProcess(c.ids).then(() => "ended"),
      agent.client.agent.waitProcess(other.ids).then(() => "waiting"),
    ]);
    expect(state).toBe("waiting");
    const text = (await readAll(agent.client, c.id, c.id)).toString();
    expect(text.endsWith("999999\n1000000\ndone\n")).toBe(true);
    expect(text.length).toBe(6_888_896 + "done\n".length);
  });

  test("ends with the process when something it left behind holds the pipe, which then goes on undisturbed", async () => {
    await using c = await run(["sleep", "1000"]);
    const script = "(trap '' PIPE; read x < /tmp/go; seq 1 200000; echo $? > /tmp/result) & echo started";
    await exec(c.id, "fifo", ["mkfifo", "/tmp/go", "/tmp/result"]);
    await agent.client.agent.waitProcess({ containerId: c.id, execId: "fifo" });
    const ids = await exec(c.id, "e", ["sh", "-c", script]);
    expect((await agent.client.agent.waitProcess(ids)).status).toBe(0);
    expect((await readAll(agent.client, c.id, "e")).toString()).toBe("started\n");
    await exec(c.id, "go", ["sh", "-c", "echo > /tmp/go; cat /tmp/result"]);
    expect((await readAll(agent.client, c.id, "go")).toString()).toBe("0\n");
  });

  test("a read is limited by its length, and waits for the first byte", async () => {
    await using c = await run(["sh", "-c", "read x; echo 0123456789"]);
    const { agent: api } = agent.client;
    const reading = api.readStdout({ ...c.ids, len: 4 });
    await api.writeStdin({ ...c.ids, data: Buffer.from("\n") });
    expect(Buffer.from((await reading).data).toString()).toBe("0123");
    expect((await readAll(agent.client, c.id, c.id)).toString()).toBe("456789\n");
  });
});

describe("standard input", () => {
  test("that nobody reads holds up its writer and nothing else; closing comes after it", async () => {
    const c = await run(["sleep", "1000"]);
    await using other = await run(["cat"]);
    const { agent: api } = agent.client;
    const writing = rejection(api.writeStdin({ ...c.ids, data: new Uint8Array(1_000_000) }));
    const closing = api.closeStdin(c.ids);
    await api.writeStdin({ ...other.ids, data: Buffer.from("lively") });
    await api.closeStdin(other.ids);
    expect((await readAll(agent.client, other.id, other.id)).toString()).toBe("lively");
    await c[Symbol.asyncDispose]();
    expect(await writing).toMatchObject({ code: "failed-precondition" });
    await closing;
  });

  test("of a process that has ended says so", async () => {
    await using c = await run(["true"]);
    await agent.client.agent.waitProcess(c.ids);
    expect(await rejection(agent.client.agent.writeStdin({ ...c.ids, data: Buffer.from("x") }))).toMatchObject({
      code: "failed-precondition",
    });
    await agent.client.agent.closeStdin(c.ids);
  });
});

describe("signals", () => {
  test("a trap sees the signal", async () => {
    await using c = await run(["sh", "-c", "trap 'exit 42' TERM; echo ready; while true; do sleep 0.01; done"]);
    const { agent: api } = agent.client;
    await api.readStdout({ ...c.ids, len: 100 });
    await api.signalProcess({ ...c.ids, signal: 15 });
    expect((await api.waitProcess(c.ids)).status).toBe(42);
  });

  test.each([1, 2, 3, 15])("signal %d ends one that waits for its start", async (signal) => {
    const id = newContainerId();
    const { agent: api } = agent.client;
    await api.createContainer({ containerId: id, execId: id, ociJson: agent.config(["sleep", "1000"]) });
    await api.signalProcess({ containerId: id, execId: id, signal });
    expect((await api.waitProcess({ containerId: id, execId: id })).status).toBe(137);
    await api.removeContainer({ containerId: id, timeout: 5 });
  });

  test("an empty exec id means every process", async () => {
    await using c = await run(["sh", "-c", "trap : TERM; echo ready; while true; do sleep 0.01; done"]);
    const { agent: api } = agent.client;
    const e = await exec(c.id, "e", ["sleep", "1000"]);
    await api.readStdout({ ...c.ids, len: 100 });
    await api.signalProcess({ containerId: c.id, execId: "", signal: 15 });
    expect((await api.waitProcess(e)).status).toBe(143);
    await api.signalProcess({ containerId: c.id, execId: "", signal: 9 });
    expect((await api.waitProcess(c.ids)).status).toBe(137);
  });

  test.each([0, 65, 1000])("number %d is refused", async (signal) => {
    await using c = await run(["sleep", "1000"]);
    expect(await rejection(agent.client.agent.signalProcess({ ...c.ids, signal }))).toMatchObject({
      code: "invalid-argument",
    });
  });

  test("a realtime signal arrives", async () => {
    await using c = await run(["sleep", "1000"]);
    const e = await exec(c.id, "e", ["sleep", "1000"]);
    await agent.client.agent.signalProcess({ ...e, signal: 40 });
    expect((await agent.client.agent.waitProcess(e)).status).toBe(168);
  });
});

describe("terminal", () => {
  test("size, resize, echo, and one output", async () => {
    const changes = { process: { terminal: true, consoleSize: { height: 30, width: 100 } } };
    await using c = await run(["sh", "-c", "stty size; read x; stty size; exit 5"], changes);
    const { agent: api } = agent.client;
    const first = await api.readStdout({ ...c.ids, len: 100 });
    expect(Buffer.from(first.data).toString()).toBe("30 100\r\n");
    await api.ttyWinResize({ ...c.ids, row: 50, column: 120 });
    await api.writeStdin({ ...c.ids, data: Buffer.from("x\n") });
    expect((await readAll(agent.client, c.id, c.id)).toString()).toBe("x\r\n50 120\r\n");
    expect(await rejection(api.readStderr({ ...c.ids, len: 10 }))).toMatchObject({ code: "out-of-range" });
    expect((await api.waitProcess(c.ids)).status).toBe(5);
  });

  test("exec with a terminal, ended by its own key", async () => {
    await using c = await run(["sleep", "1000"]);
    const ids = await exec(c.id, "e", ["cat"], { terminal: true });
    const { agent: api } = agent.client;
    await api.writeStdin({ ...ids, data: Buffer.from("line\n") });
    let seen = "";
    while (!seen.includes("line\r\nline\r\n")) seen += Buffer.from((await api.readStdout({ ...ids, len: 100 })).data);
    await api.closeStdin(ids);
    await api.signalProcess({ ...ids, signal: 2 });
    expect((await api.waitProcess(ids)).status).toBe(130);
    expect((await readAll(agent.client, c.id, "e")).toString()).toBe("");
  });

  test("a window cannot be resized where there is none", async () => {
    await using c = await run(["sleep", "1000"]);
    expect(await rejection(agent.client.agent.ttyWinResize({ ...c.ids, row: 1, column: 1 }))).toMatchObject({
      code: "failed-precondition",
    });
  });
});

describe("life of a container", () => {
  test("an id that is taken, invalid or unknown", async () => {
    await using c = await run(["sleep", "1000"]);
    const create = (containerId: string) =>
      rejection(agent.client.agent.createContainer({ containerId, ociJson: agent.config(["true"]) }));
    expect(await create(c.id)).toMatchObject({ code: "already-exists" });
    for (const id of ["", "../x", "a/b", "x".repeat(300)]) {
      expect(await create(id)).toMatchObject({ code: "invalid-argument" });
    }
    expect(await rejection(agent.client.agent.startContainer({ containerId: "nobody" }))).toMatchObject({
      code: "not-found",
      message: "container nobody does not exist",
    });
    await agent.client.agent.removeContainer({ containerId: "nobody" });
  });

  test("a second start is refused", async () => {
    await using c = await run(["sleep", "1000"]);
    expect(await rejection(agent.client.agent.startContainer({ containerId: c.id }))).toMatchObject({
      code: "failed-precondition",
    });
  });

  test("one that was never started is removed", async () => {
    const id = newContainerId();
    await agent.client.agent.createContainer({ containerId: id, ociJson: agent.config(["true"]) });
    const waiting = agent.client.agent.waitProcess({ containerId: id, execId: id });
    await agent.client.agent.removeContainer({ containerId: id });
    expect((await waiting).status).toBe(137);
  });

  test("removing kills what runs, and leaves nothing behind", async () => {
    const c = await run(["sh", "-c", "trap : TERM INT HUP; sleep 1000 & while true; do sleep 1; done"]);
    await exec(c.id, "e", ["sleep", "1000"]);
    await c[Symbol.asyncDispose]();
    const { agent: api } = agent.client;
    expect(await rejection(api.waitProcess(c.ids))).toMatchObject({ code: "not-found" });
    const inside = await allCollected();
    expect(inside.bundles).not.toContain(c.id);
    expect(inside.crun).not.toContain(c.id);
  });

  test("removing while processes are being started", async () => {
    const c = await run(["sleep", "1000"]);
    const execs = Array.from({ length: 10 }, (_, index) => exec(c.id, `x${index}`, ["sleep", "1000"]));
    // Some are made in time, the others are refused.
    const settled = Promise.allSettled(execs);
    await c[Symbol.asyncDispose]();
    await settled;
    const inside = await allCollected();
    expect(inside.sleeping).toEqual([]);
    expect(inside.bundles).not.toContain(c.id);
  });

  test("garbage for a configuration is refused", async () => {
    const create = (text: string) =>
      rejection(agent.client.agent.createContainer({ containerId: "g", ociJson: new TextEncoder().encode(text) }));
    expect(await create("{")).toMatchObject({ code: "invalid-argument" });
    expect(await create("5")).toMatchObject({ code: "invalid-argument" });
    expect(await create('{"ociVersion":"1.0.2","linux":5}')).toMatchObject({ code: "invalid-argument" });
    expect(await create('{"ociVersion":"1.0.2","process":{"args":["true"],"cwd":"/"}}')).toBeDefined();
    expect(await rejection(agent.client.agent.createContainer({ containerId: "g" }))).toMatchObject({
      code: "invalid-argument",
    });
  });

  test("processes that a container without a pid namespace leaves behind are collected", async () => {
    await using c = await run(["sh", "-c", "sleep 1000 & exit 0"], { namespaces: ["mount", "ipc", "uts"] });
    await agent.client.agent.waitProcess(c.ids);
    await readAll(agent.client, c.id, c.id);
    let sleeping: readonly string[];
    do ({ sleeping } = await agent.lookInside());
    while (sleeping.length === 0);
    await agent.runInside(["kill", ...sleeping]);
    // A zombie counts too.
    while ((await agent.lookInside()).sleeping.length > 0);
  });

  test("processes are listed as pids and as a table", async () => {
    await using c = await run(["sh", "-c", "echo ready; exec sleep 1000"]);
    const { agent: api } = agent.client;
    await api.readStdout({ ...c.ids, len: 100 });
    const text = async (format: string, args: string[] = []): Promise<string> =>
      Buffer.from((await api.listProcesses({ containerId: c.id, format, args })).processList).toString();
    const pids: unknown = JSON.parse(await text("json"));
    expect(pids).toEqual([expect.any(Number)]);
    const [title, row] = (await text("table")).trimEnd().split("\n");
    expect(title?.trim().split(/\s+/)).toEqual(["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    expect(row).toMatch(/^root +\d+ +\d+ +\d+ \S+ +\? +00:00:00 (?:sleep 1000|sh -c .*)$/);
    expect(await rejection(text("xml"))).toMatchObject({ code: "invalid-argument" });
    expect(await rejection(text("table", ["-o", "pid"]))).toMatchObject({ code: "unimplemented" });
  });
});

describe("protobuf instead of JSON", () => {
  test("a container and a process by `OCI` and `process`", async () => {
    const id = newContainerId();
    const { agent: api } = agent.client;
    const config = JSON.parse(new TextDecoder().decode(agent.config(["sh", "-c", "echo $A; read x"])));
    await api.createContainer({
      containerId: id,
      execId: id,
      OCI: {
        Version: "1.0.2",
        Process: { Args: config.process.args, Cwd: "/", Env: ["PATH=/bin", "A=protobuf"] },
        Root: { Path: config.root.path },
        Hostname: "x",
        Mounts: config.mounts,
        Linux: { Namespaces: [{ Type: "pid" }, { Type: "mount" }, { Type: "uts" }] },
      },
    });
    await api.startContainer({ containerId: id });
    expect(Buffer.from((await api.readStdout({ containerId: id, execId: id, len: 100 })).data).toString()).toBe(
      "protobuf\n",
    );
    await api.execProcess({ containerId: id, execId: "e", process: { Args: ["echo", "more"], Env: ["PATH=/bin"] } });
    expect((await readAll(agent.client, id, "e")).toString()).toBe("more\n");
    await api.removeContainer({ containerId: id });
  });
});
