/** Streams, terminals, signals and exit statuses of processes in a real VM, through the runtime's own command line. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { dup, pipe } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { FdWriter } from "../../src/sys/fd-writer.ts";
import { setWindowSize } from "../../src/sys/pty.ts";
import { ConsoleListener } from "../../src/sys/scm.ts";
import { type Hearth, type OpenHearth, openHearth } from "../harness/hearth.ts";

const VM_TIMEOUT_MS = 120_000;
const sh = (script: string): string[] => ["sh", "-c", script];

/** Of this run alone: without a cgroupsPath the cgroup on the host is named after it. */
const C1 = `streams-${process.pid}`;
const C2 = `${C1}-created`;

let opened: OpenHearth;
let hearth: Hearth;
beforeAll(async () => {
  opened = openHearth();
  hearth = opened.hearth;
  const bundle = await hearth.bundle({ args: ["sleep", "100000"] });
  // Not pipes: the container keeps them.
  const outputPath = join(hearth.dir, "output");
  const { status, stdout } = await hearth.runtime(["run", "--detach", "--bundle", bundle, C1], { outputPath });
  if (status !== 0) throw new Error(`${stdout}\n${opened.describe()}`);
}, VM_TIMEOUT_MS);
afterAll(async () => {
  await hearth.runtime(["delete", "--force", C1]);
  await opened.close();
}, VM_TIMEOUT_MS);

type Stdio = "pipe" | "ignore" | "inherit" | number | Buffer;

function spawnExec(args: readonly string[], stdio: readonly [Stdio, Stdio, Stdio]) {
  return Bun.spawn([hearth.runtimePath, "exec", C1, ...args], {
    argv0: "hearth-runtime",
    env: { ...hearth.env },
    stdio: [...stdio],
  });
}

const execIn = (args: readonly string[]) => hearth.runtime(["exec", C1, ...args]);

describe("exec", () => {
  test.each([
    ["exit 0", 0],
    ["exit 42", 42],
    ["exit 255", 255],
    ["kill -9 $$", 137],
    ["kill -TERM $$", 143],
  ])("%s", async (script, status) => {
    expect((await execIn(sh(script))).status).toBe(status);
  });

  test.each([
    [["/nowhere"], "no such file or directory"],
    [["nowhere"], "executable file not found in $PATH"],
    [["/proc"], "permission denied"],
  ])("%p cannot be run", async (args, message) => {
    const { status, stderr } = await execIn(args);
    expect([status, stderr.toLowerCase()]).toEqual([255, expect.stringContaining(message.toLowerCase())]);
  });

  test("4 MiB through stdin and stdout, unchanged", async () => {
    const data = randomBytes(4 << 20);
    const child = spawnExec(["cat"], [data, "pipe", "inherit"]);
    const received = await new Response(child.stdout as ReadableStream).bytes();
    expect(Buffer.compare(Buffer.from(received), data)).toBe(0);
    expect(await child.exited).toBe(0);
  });

  test("the end of stdin reaches the process, whose output still comes; stderr is apart", async () => {
    const child = spawnExec(sh("wc -c; echo err >&2"), [Buffer.from("12345"), "pipe", "pipe"]);
    const texts = [child.stdout, child.stderr].map((stream) => new Response(stream as ReadableStream).text());
    expect(await Promise.all(texts)).toEqual(["5\n", "err\n"]);
  });

  test("a reader that stops holds up its own stream only", async () => {
    const script = "(head -c 3000000 /dev/zero >&2; echo done >&2) & echo out; exec >&-; wait";
    const child = spawnExec(sh(script), ["ignore", "pipe", "pipe"]);
    expect(await new Response(child.stdout as ReadableStream).text()).toBe("out\n");
    expect((await new Response(child.stderr as ReadableStream).bytes()).length).toBe(3_000_005);
    expect(await child.exited).toBe(0);
  });

  test("a reader that goes away does not hang the process", async () => {
    const { readEnd, writeEnd } = pipe();
    const child = spawnExec(sh("head -c 3000000 /dev/zero; exit 5"), ["ignore", writeEnd.fd, "inherit"]);
    writeEnd.close();
    readEnd.close();
    expect(await child.exited).toBe(5);
  });

  test("a process that closes its stdin closes ours", async () => {
    const { readEnd, writeEnd } = pipe({ nonBlockingWrite: true });
    const child = spawnExec(sh("exec <&-; sleep 100000"), [readEnd.fd, "ignore", "ignore"]);
    readEnd.close();
    using writer = new FdWriter(writeEnd);
    const chunk = new Uint8Array(65536);
    const fill = async (): Promise<void> => {
      for (;;) await writer.write(chunk);
    };
    await expect(fill()).rejects.toThrow("EPIPE");
    child.kill("SIGTERM");
    expect(await child.exited).toBe(143);
  });

  test("a child that keeps the output open does not keep exec waiting", async () => {
    expect((await execIn(sh("sleep 100 & echo out"))).stdout).toBe("out\n");
  });

  test("signals of the runtime are the process's", async () => {
    const child = spawnExec(sh("trap 'echo got; exit 7' USR1; echo ready; while :; do sleep 0.1; done"), [
      "ignore",
      "pipe",
      "inherit",
    ]);
    let seen = "";
    const decoder = new TextDecoder();
    for await (const chunk of child.stdout as ReadableStream<Uint8Array>) {
      seen += decoder.decode(chunk, { stream: true });
      if (seen === "ready\n") child.kill("SIGUSR1");
    }
    expect([seen, await child.exited]).toEqual(["ready\ngot\n", 7]);
  });

  test("40 quick ones, four at a time, each with its status and output", async () => {
    const wrong: string[] = [];
    const one = async (index: number): Promise<void> => {
      const { status, stdout } = await execIn(sh(`echo ${index}; exit ${index}`));
      if (status !== index || stdout !== `${index}\n`) wrong.push(`${index}: ${status} ${JSON.stringify(stdout)}`);
    };
    for (let index = 0; index < 40; index += 4) await Promise.all([0, 1, 2, 3].map((more) => one(index + more)));
    expect(wrong).toEqual([]);
  }, 60_000);
});

test(
  "exec in a container that was created and not started, which starts all the same",
  async () => {
    const bundle = await hearth.bundle({ args: ["sleep", "100000"] });
    const outputPath = join(hearth.dir, "created-output");
    expect((await hearth.runtime(["create", "--bundle", bundle, C2], { outputPath })).status).toBe(0);
    try {
      const { status, stdout } = await hearth.runtime(["exec", C2, ...sh("echo $PPID; exit 42")]);
      expect([status, stdout]).toEqual([42, "0\n"]);
      expect((await hearth.runtime(["start", C2])).status).toBe(0);
      expect(JSON.parse((await hearth.runtime(["state", C2])).stdout)).toMatchObject({ status: "running" });
    } finally {
      await hearth.runtime(["delete", "--force", C2]);
    }
  },
  VM_TIMEOUT_MS,
);

test("a terminal by console socket: size, input, resize, interrupt, end", async () => {
  using listener = ConsoleListener.listen(join(hearth.dir, "console.sock"));
  const received = listener.receive({ timeoutMs: 20_000 });
  const pidFile = join(hearth.dir, "exec.pid");
  const processFile = join(hearth.dir, "process.json");
  const script =
    "stty size; trap 'stty size' WINCH; trap 'echo interrupted' INT; echo ready; while :; do read x && echo \"<$x>\"; [ \"$x\" = end ] && exit 9; done";
  await Bun.write(
    processFile,
    JSON.stringify({
      terminal: true,
      consoleSize: { height: 11, width: 22 },
      args: sh(script),
      cwd: "/",
      env: ["PATH=/bin"],
      user: { uid: 0, gid: 0 },
    }),
  );
  const flags = ["--process", processFile, "--detach", "--pid-file", pidFile, "--console-socket", listener.path];
  const { status, stderr } = await hearth.runtime(["exec", ...flags, C1]);
  expect([status, stderr]).toEqual([0, ""]);
  const master = await received;
  using writer = new FdWriter(dup(master.fd));
  using reader = new FdReader(master);
  const decoder = new TextDecoder();
  let seen = "";
  const until = async (text: string): Promise<void> => {
    while (!seen.includes(text)) {
      const data = await reader.read(undefined, AbortSignal.timeout(20_000));
      if (data === null) throw new Error(`hung up after ${JSON.stringify(seen)}`);
      seen += decoder.decode(data, { stream: true });
    }
    seen = seen.slice(seen.indexOf(text) + text.length);
  };
  const type = (text: string): Promise<void> => writer.write(new TextEncoder().encode(text));
  await until("11 22\r\nready\r\n");
  await type("a b\r");
  await until("<a b>\r\n");
  setWindowSize(reader.fd, { rows: 33, columns: 44 });
  await until("33 44\r\n");
  await type("\u0003");
  await until("interrupted\r\n");
  await type("end\r");
  await until("<end>\r\n");
  for (let data = await reader.read(); data !== null; data = await reader.read());
});
