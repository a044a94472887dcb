/** Standard streams of processes in a real VM, exact and at length, and an interactive shell as a person sees it. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { EXEC_PROCESSES_MAX } from "../../src/limits.ts";
import { silentLog } from "../../src/log.ts";
import { connectSandbox, type SandboxConnection } from "../../src/rpc/sandbox-connection.ts";
import { startShim } from "../../src/shim/shim.ts";
import { pipe } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { type Hearth, type OpenHearth, openHearth } from "../harness/hearth.ts";
import { startTmux } from "../harness/tmux.ts";
import { until } from "../harness/until.ts";

const VM_TIMEOUT_MS = 120_000;
/** Of this run alone: without a cgroupsPath the cgroup on the host is named after it. */
const POD = `stdio-${process.pid}`;
const MEMBER = `${POD}-member`;
const MIB = 1024 * 1024;
const sh = (script: string): string[] => ["/bin/sh", "-c", script];
const podAnnotations = (type: string): Record<string, string> => ({
  "io.kubernetes.cri.container-type": type,
  "io.kubernetes.cri.sandbox-id": POD,
});

let opened: OpenHearth;
let hearth: Hearth;
beforeAll(async () => {
  opened = openHearth();
  hearth = opened.hearth;
  for (const [id, type] of [
    [POD, "sandbox"],
    [MEMBER, "container"],
  ] as const) {
    const bundle = await hearth.bundle({
      args: ["sleep", "100000"],
      config: { annotations: podAnnotations(type) },
    });
    // Not pipes: the container keeps them.
    const outputPath = join(hearth.dir, `${id}.output`);
    const { status, stdout } = await hearth.runtime(["run", "--detach", "--bundle", bundle, id], { outputPath });
    if (status !== 0) throw new Error(`${stdout}\n${opened.describe()}`);
  }
}, VM_TIMEOUT_MS);
afterAll(async () => {
  for (const id of [`${POD}-shell`, MEMBER, POD]) await hearth.runtime(["delete", "--force", id]);
  await opened.close();
}, VM_TIMEOUT_MS);

type Stdio = "pipe" | "ignore" | number | Buffer;

function spawnExec(id: string, args: readonly string[], stdio: readonly [Stdio, Stdio, Stdio]) {
  return Bun.spawn([hearth.runtimePath, "exec", id, ...args], {
    argv0: "hearth-runtime",
    env: { ...hearth.env },
    stdio: [...stdio],
  });
}

test(
  "100 MiB through stdin, cat and stdout are the same bytes",
  async () => {
    const block = randomBytes(MIB);
    const sent = createHash("sha256");
    const received = createHash("sha256");
    const child = Bun.spawn([hearth.runtimePath, "exec", POD, "/bin/cat"], {
      argv0: "hearth-runtime",
      env: { ...hearth.env },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    });
    const feed = async (): Promise<void> => {
      for (let index = 0; index < 100; index++) {
        block.writeUInt32LE(index);
        sent.update(block);
        child.stdin.write(block.slice());
        await child.stdin.flush();
      }
      await child.stdin.end();
    };
    const fed = feed();
    let length = 0;
    for await (const chunk of child.stdout) {
      received.update(chunk);
      length += chunk.length;
    }
    await fed;
    expect([await child.exited, length, received.digest("hex")]).toEqual([0, 100 * MIB, sent.digest("hex")]);
  },
  VM_TIMEOUT_MS,
);

test(
  "a reader that stops holds up neither another process nor another container of the VM",
  async () => {
    const stopped = [POD, MEMBER].map((id) => {
      // A pipe of our own: Bun would read one that it made.
      const { readEnd, writeEnd } = pipe({ nonBlockingRead: true });
      const child = spawnExec(id, sh("yes | head -c 8000000; exit 3"), ["ignore", writeEnd.fd, "ignore"]);
      writeEnd.close();
      return { child, reader: new FdReader(readEnd) };
    });
    for (const id of [POD, MEMBER]) {
      const child = spawnExec(id, sh("head -c 4000000 /dev/zero"), ["ignore", "pipe", "ignore"]);
      expect((await new Response(child.stdout as ReadableStream).bytes()).length).toBe(4_000_000);
      expect(await child.exited).toBe(0);
    }
    for (const { child, reader } of stopped) {
      expect(child.exitCode).toBeNull();
      expect((await readAll(reader)).length).toBe(8_000_000);
      expect(await child.exited).toBe(3);
    }
  },
  VM_TIMEOUT_MS,
);

test(
  "a reader that goes away ends the process that goes on writing",
  async () => {
    const { readEnd, writeEnd } = pipe({ nonBlockingRead: true });
    const child = spawnExec(POD, ["yes"], ["ignore", writeEnd.fd, "ignore"]);
    writeEnd.close();
    const reader = new FdReader(readEnd);
    expect(await reader.read()).not.toBeNull();
    reader.close();
    expect(await child.exited).toBe(128 + 13);
  },
  VM_TIMEOUT_MS,
);

test(
  "a process whose input has ended still gives its output, and may wait with it",
  async () => {
    const child = spawnExec(POD, sh("cat | sha256sum; sleep 0.3; echo late"), [Buffer.from("abc"), "pipe", "ignore"]);
    const hash = createHash("sha256").update("abc").digest("hex");
    expect(await new Response(child.stdout as ReadableStream).text()).toBe(`${hash}  -\nlate\n`);
    expect(await child.exited).toBe(0);
  },
  VM_TIMEOUT_MS,
);

/** More than a container may have at once. */
const RUNS = EXEC_PROCESSES_MAX + 26;
const AT_ONCE = 8;

async function connectToSandbox(): Promise<SandboxConnection> {
  const state: { vm: { socket: string } } = JSON.parse(
    readFileSync(join(hearth.runDir, "containers", POD, "state.json"), "utf8"),
  );
  return await connectSandbox(state.vm.socket, { timeoutMs: 10_000 });
}

const processOf = (...args: string[]): Uint8Array =>
  new TextEncoder().encode(JSON.stringify({ args, cwd: "/", user: { uid: 0, gid: 0 } }));

test(
  "a process that has ended is forgotten with the connection of its owner",
  async () => {
    const exec = { containerId: POD, execId: "once-more", processJson: processOf("/bin/busybox", "true") };
    const first = await connectToSandbox();
    await first.sandbox.execProcess(exec, { timeoutMs: 60_000 });
    expect(await first.sandbox.waitProcess({ ...exec, owner: true })).toMatchObject({ exitStatus: 0 });
    await expect(first.sandbox.execProcess(exec)).rejects.toMatchObject({ code: "already-exists" });
    first.close();
    await using second = await connectToSandbox();
    const again = () => second.sandbox.execProcess(exec).then(() => "made", String);
    await until(again, (outcome) => outcome === "made");
  },
  VM_TIMEOUT_MS,
);

test(
  "a process whose owner goes while it is being made does not stay",
  async () => {
    const processJson = processOf("/bin/busybox", "sleep", "4321");
    await using connection = await connectToSandbox();
    const making = connection.sandbox.execProcess({ containerId: POD, execId: "unwanted", processJson });
    making.catch(() => undefined);
    // Calls of one connection are taken in order: when this is answered, the one above has been taken.
    await connection.sandbox.info({});
    connection.close();
    // As long as it takes to be made.
    for (let round = 0; round < 3; round++) expect((await hearth.runtime(["exec", POD, "true"])).status).toBe(0);
    const listed = await until(
      () => hearth.runtime(["ps", POD]),
      ({ stdout }) => !stdout.includes("sleep 4321"),
    );
    expect(listed.stdout).toContain("sleep 100000");
  },
  VM_TIMEOUT_MS,
);

test(`of ${RUNS} processes that write and end at once no byte is lost`, async () => {
  await using connection = await connectToSandbox();
  const { sandbox } = connection;
  const run = async (index: number): Promise<string> => {
    const execId = `quick-${index}`;
    const script = `echo out ${index}; echo err ${index} >&2; exit ${index % 200}`;
    const processJson = processOf("/bin/busybox", "sh", "-c", script);
    await sandbox.execProcess({ containerId: POD, execId, processJson }, { timeoutMs: 60_000 });
    const [out, err] = [pipe({ nonBlockingRead: true }), pipe({ nonBlockingRead: true })];
    const texts = [out, err].map(({ readEnd }) => readAll(new FdReader(readEnd)));
    const shim = startShim({
      target: { sandbox, containerId: POD, execId },
      stdio: { stdin: undefined, stdout: out.writeEnd, stderr: err.writeEnd },
      terminal: undefined,
      log: silentLog,
    });
    const status = await shim.exited;
    return `${status} ${(await Promise.all(texts)).join("")}`;
  };
  const wrong: string[] = [];
  const worker = async (first: number): Promise<void> => {
    for (let index = first; index < RUNS; index += AT_ONCE) {
      const found = await run(index);
      if (found !== `${index % 200} out ${index}\nerr ${index}\n`) wrong.push(`${index}: ${JSON.stringify(found)}`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, (_, first) => worker(first)));
  expect(wrong).toEqual([]);
}, 600_000);

async function readAll(reader: FdReader): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for (let data = await reader.read(); data !== null; data = await reader.read()) {
    text += decoder.decode(data, { stream: true });
  }
  reader.close();
  return text;
}

test(
  "an interactive shell: size, its change, Ctrl-C, job control, Ctrl-D",
  async () => {
    const config = { annotations: podAnnotations("container") };
    const bundle = await hearth.bundle({
      args: ["/bin/sh"],
      terminal: true,
      env: ["PATH=/bin", "PS1=shell> "],
      config,
    });
    const command = `HEARTH_CONFIG=${hearth.configPath} ${hearth.runtimePath} run --bundle ${bundle} ${POD}-shell; echo ended $?; stty -a`;
    await using terminal = await startTmux(hearth.dir, { columns: 91, rows: 27, command });
    await terminal.until("shell> ");
    await terminal.type("stty size\r");
    await terminal.until("27 91");
    await terminal.resize({ columns: 73, rows: 31 });
    await terminal.type("while [ \"$(stty size)\" != '31 73' ]; do sleep 0.1; done; echo size $(stty size)\r");
    await terminal.until("size 31 73");
    await terminal.type("sleep 1000; echo status $?\r");
    await terminal.untilRunning("sleep 1000", () => hearth.runtime(["ps", `${POD}-shell`]));
    await terminal.type("\u0003");
    await terminal.until("shell> ");
    await terminal.type("echo after $?\r");
    await terminal.until("after 130");
    await terminal.type("sleep 2000\r");
    await terminal.untilRunning("sleep 2000", () => hearth.runtime(["ps", `${POD}-shell`]));
    await terminal.type("\u001a");
    await terminal.until("Stopped");
    await terminal.type("jobs; bg; kill %1; wait; echo no more $?\r");
    await terminal.until("no more 0");
    // The shell asks the terminal where it is: what comes before that answer may be taken for it.
    await terminal.until("shell> ");
    await terminal.type("printf 'g%s\\n' o; cat; echo status $?\r");
    await terminal.until("go\r\n");
    await terminal.type("line\r");
    await terminal.until("line\r\nline\r\n");
    await terminal.type("\u0004");
    await terminal.until("status 0\r\n");
    await terminal.until("shell> ");
    await terminal.type("\u0004");
    await terminal.until("ended 0");
    // The terminal is as it was.
    await terminal.until(" echo ");
  },
  VM_TIMEOUT_MS,
);
