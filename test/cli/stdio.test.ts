import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { ChildReaper } from "../../src/sys/child-reaper.ts";
import { dup, pipe } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { FdWriter } from "../../src/sys/fd-writer.ts";
import { becomeSubreaper } from "../../src/sys/process.ts";
import { openPty, setWindowSize } from "../../src/sys/pty.ts";
import { ConsoleListener } from "../../src/sys/scm.ts";
import { type RuntimeFixture, runtimeFixture } from "../harness/runtime-fixture.ts";

let fixture: RuntimeFixture;
beforeEach(() => {
  fixture = runtimeFixture();
});
afterEach(() => {
  using done = fixture;
  expect(done.leftovers()).toEqual([]);
});

const sh = (script: string): string[] => ["sh", "-c", script];

describe("run in the foreground", () => {
  test.each([
    [sh("exit 0"), 0],
    [sh("exit 42"), 42],
    [sh("kill -9 $$"), 137],
    [sh("kill -TERM $$"), 143],
  ])("%p ends with %p", async (args, status) => {
    fixture.writeBundle(args);
    expect((await fixture.run(["run", "c1"])).exitCode).toBe(status);
  });

  test("1 MiB goes through stdin and stdout unchanged", async () => {
    fixture.writeBundle(["cat"]);
    const data = randomBytes(1 << 20);
    const child = Bun.spawn(fixture.argv("run", "c1"), {
      env: fixture.env,
      cwd: fixture.bundle,
      stdio: [data, "pipe", "inherit"],
    });
    const received = await new Response(child.stdout).bytes();
    expect(await child.exited).toBe(0);
    expect(createHash("sha256").update(received).digest("hex")).toBe(createHash("sha256").update(data).digest("hex"));
  });

  test("the end of stdin reaches the process, whose output still comes", async () => {
    fixture.writeBundle(sh("cat > /dev/null; echo after"));
    expect(await fixture.ok(["run", "c1"], "x")).toBe("after\n");
  });

  test("stdout and stderr are apart", async () => {
    fixture.writeBundle(sh("echo out; echo err >&2"));
    expect(await fixture.run(["run", "c1"])).toEqual({ exitCode: 0, stdout: "out\n", stderr: "err\n" });
  });

  test("a reader that stops holds up its own stream only", async () => {
    // More than every buffer between the process and us holds.
    fixture.writeBundle(sh("(head -c 4000000 /dev/zero >&2; echo done >&2) & echo out; exec >&-; wait"));
    const child = Bun.spawn(fixture.argv("run", "c1"), {
      env: fixture.env,
      cwd: fixture.bundle,
      stdio: ["ignore", "pipe", "pipe"],
    });
    expect(await new Response(child.stdout).text()).toBe("out\n");
    expect(child.exitCode).toBeNull();
    const stderr = await new Response(child.stderr).bytes();
    expect([stderr.length, await child.exited]).toEqual([4000005, 0]);
  });

  test("a reader that goes away does not hang the process", async () => {
    fixture.writeBundle(sh("head -c 4000000 /dev/zero; exit 5"));
    const { readEnd, writeEnd } = pipe();
    const child = Bun.spawn(fixture.argv("run", "c1"), {
      env: fixture.env,
      cwd: fixture.bundle,
      stdio: ["ignore", writeEnd.fd, "inherit"],
    });
    writeEnd.close();
    readEnd.close();
    expect(await child.exited).toBe(5);
  });

  test.each([
    [1, "yes"],
    [2, "yes >&2"],
  ])("a reader of descriptor %i that goes away ends who goes on writing", async (descriptor, script) => {
    fixture.writeBundle(sh(script));
    const { readEnd, writeEnd } = pipe();
    const child = Bun.spawn(fixture.argv("run", "c1"), {
      env: fixture.env,
      cwd: fixture.bundle,
      stdio: ["ignore", descriptor === 1 ? writeEnd.fd : "ignore", descriptor === 2 ? writeEnd.fd : "ignore"],
    });
    writeEnd.close();
    readEnd.close();
    expect(await child.exited).toBe(128 + 13);
  });

  test("a process that closes its stdin closes ours", async () => {
    fixture.writeBundle(sh("exec <&-; echo closed; sleep 1000"));
    const { readEnd, writeEnd } = pipe({ nonBlockingWrite: true });
    const child = Bun.spawn(fixture.argv("run", "c1"), {
      env: fixture.env,
      cwd: fixture.bundle,
      stdio: [readEnd.fd, "pipe", "inherit"],
    });
    readEnd.close();
    using writer = new FdWriter(writeEnd);
    const chunk = new Uint8Array(65536);
    const fill = async (): Promise<void> => {
      for (;;) await writer.write(chunk);
    };
    await expect(fill()).rejects.toThrow("EPIPE");
    child.kill("SIGKILL");
    await child.exited;
    await fixture.ok(["delete", "--force", "c1"]);
  });

  test("signals are passed on", async () => {
    fixture.writeBundle(sh("trap 'echo got; exit 7' USR1; echo ready; while :; do sleep 0.01; done"));
    const child = Bun.spawn(fixture.argv("run", "c1"), {
      env: fixture.env,
      cwd: fixture.bundle,
      stdio: ["ignore", "pipe", "inherit"],
    });
    using out = streamReader(child.stdout);
    await out.until("ready\n");
    child.kill("SIGUSR1");
    await out.until("got\n");
    expect(await child.exited).toBe(7);
  });

  test("a signal that comes while the poststart hooks run is passed on too", async () => {
    const ready = fixture.path("ready");
    const hook = fixture.path("hook");
    writeFileSync(hook, `#!/bin/sh\nwhile ! [ -e ${ready} ]; do sleep 0.01; done\nkill -USR1 $PPID\n`, { mode: 0o755 });
    fixture.writeBundle(sh(`trap 'exit 7' USR1; : >${ready}; while :; do sleep 0.01; done`), {
      spec: { hooks: { poststart: [{ path: hook, env: ["PATH=/usr/bin:/bin"] }] } },
    });
    expect(await fixture.run(["run", "c1"])).toEqual({ exitCode: 7, stdout: "", stderr: "" });
  });

  test("a program that is not there is an error, and nothing is left", async () => {
    fixture.writeBundle(["/nowhere"]);
    const { exitCode, stderr } = await fixture.run(["run", "c1"]);
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining("run failed: exec:")]);
  });

  test("--keep leaves a stopped container", async () => {
    fixture.writeBundle(["true"]);
    await fixture.ok(["run", "--keep", "c1"]);
    expect((await fixture.state("c1")).status).toBe("stopped");
    await fixture.ok(["delete", "c1"]);
  });
});

/** Text of a stream as it comes. */
function streamReader(stream: ReadableStream<Uint8Array>): Disposable & { until(text: string): Promise<void> } {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let seen = "";
  return {
    async until(text) {
      while (!seen.includes(text)) {
        const { done, value } = await reader.read();
        if (done) throw new Error(`ended after ${JSON.stringify(seen)}`);
        seen += decoder.decode(value, { stream: true });
      }
    },
    [Symbol.dispose]: () => reader.releaseLock(),
  };
}

describe("exec", () => {
  beforeEach(async () => {
    fixture.writeBundle(["sleep", "1000"], { process: { env: ["PATH=/usr/bin:/bin", "A=1"] } });
    await fixture.ok(["run", "--detach", "c1"]);
  });
  afterEach(async () => {
    await fixture.ok(["delete", "--force", "c1"]);
  });

  test.each([
    [["sh", "-c", "exit 42"], 42],
    [["sh", "-c", "kill -9 $$"], 137],
    [["sh", "-c", "exit 255"], 255],
  ])("%p ends with %p", async (args, status) => {
    expect((await fixture.run(["exec", "c1", ...args])).exitCode).toBe(status);
  });

  test("flags of the command are the command's", async () => {
    expect(await fixture.ok(["exec", "c1", "echo", "-d", "--env", "x"])).toBe("-d --env x\n");
  });

  test("environment, working directory and standard streams", async () => {
    const script = "cat; pwd; echo $A $B $C";
    expect(
      await fixture.ok(["exec", "--env", "B=2", "-e", "C=3", "--cwd", "/usr", "c1", "sh", "-c", script], "in\n"),
    ).toBe("in\n/usr\n1 2 3\n");
  });

  test("1 MiB goes through stdin and stdout unchanged", async () => {
    const data = randomBytes(1 << 20);
    const child = Bun.spawn(fixture.argv("exec", "c1", "cat"), { env: fixture.env, stdio: [data, "pipe", "inherit"] });
    expect(Buffer.compare(Buffer.from(await new Response(child.stdout).bytes()), data)).toBe(0);
    expect(await child.exited).toBe(0);
  });

  test("a child that keeps the output open does not keep exec waiting", async () => {
    expect(await fixture.ok(["exec", "c1", "sh", "-c", "sleep 1000 & echo out"])).toBe("out\n");
  });

  test("a process file, detached, with its pid file and exit status", async () => {
    const processFile = fixture.path("process.json");
    const out = fixture.path("out");
    writeFileSync(
      processFile,
      JSON.stringify({ args: sh(`echo done > ${out}; exec sleep 1000`), cwd: "/", env: ["PATH=/bin"] }),
    );
    const pidFile = fixture.path("exec.pid");
    await fixture.ok(["exec", "--process", processFile, "--detach", "--pid-file", pidFile, "c1"]);
    const pid = Number(await Bun.file(pidFile).text());
    expect(await Bun.file(`/proc/${pid}/cmdline`).text()).toContain("\0exec-");
    process.kill(pid, "SIGTERM");
    while (await Bun.file(`/proc/${pid}/stat`).exists()) {
      if ((await Bun.file(`/proc/${pid}/stat`).text()).includes(") Z ")) break;
    }
    expect(await Bun.file(out).text()).toBe("done\n");
  });

  test("the status of a detached process that ends at once goes to whoever adopts orphans, as engines do", async () => {
    becomeSubreaper();
    using reaper = new ChildReaper();
    const pidFile = fixture.path("exec.pid");
    for (let round = 0; round < 10; round++) {
      await fixture.ok(["exec", "--detach", "--pid-file", pidFile, "c1", "sh", "-c", "exit 7"]);
      const pid = Number(await Bun.file(pidFile).text());
      expect(await reaper.wait(pid)).toMatchObject({ kind: "exited", code: 7 });
    }
  });

  test.each([
    [["c1"], "process args cannot be empty"],
    [["c1", "/nowhere"], 'exec: \\"/nowhere\\"'],
    [["--cwd", "rel", "c1", "true"], "must be an absolute path"],
    [["--user", "bob", "c1", "true"], 'use --user \\"bob\\": must be a number'],
    [["--user", "1:x", "c1", "true"], "must be a number"],
    [["--process", "/nowhere", "c1"], "read process /nowhere: ENOENT"],
    [["--process", "/proc/self/status", "c1"], "not JSON"],
    [["--tty", "--detach", "c1", "true"], "cannot allocate tty"],
    [["--console-socket", "/x", "c1", "true"], "cannot use console socket"],
    [["--preserve-fds", "65", "c1", "true"], "preserve 65 file descriptors: at most 64"],
    [["--apparmor", "x", "c1", "true"], "apparmor failed to apply profile x"],
    [["--process-label", "x", "c1", "true"], "selinux is disabled or not supported"],
    [["--cgroup", "/../x", "c1", "true"], "not below the container's own"],
    [["--cgroup", "cpu:/x", "c1", "true"], "no controllers of their own"],
    [["--cgroup", "/x", "--cgroup", "/y", "c1", "true"], "only one path can be given"],
  ])("exec %p fails with status 255", async (args, message) => {
    const { exitCode, stdout, stderr } = await fixture.run(["exec", ...args]);
    expect([exitCode, stdout, stderr]).toEqual([255, "", expect.stringContaining(message)]);
    expect(stderr).toContain("exec failed: ");
    expect(stderr.trim().split("\n")).toHaveLength(1);
  });
});

describe("terminals", () => {
  test("create gives the master to the console socket; input, output, resize and hang-up", async () => {
    const script = "trap 'stty size; echo resized' WINCH; echo ready; while read x; do echo \"<$x>\"; done";
    fixture.writeBundle(sh(script), { process: { terminal: true, consoleSize: { height: 11, width: 22 } } });
    using listener = ConsoleListener.listen(fixture.path("console.sock"));
    const received = listener.receive({ timeoutMs: 20_000 });
    await fixture.ok(["create", "--console-socket", listener.path, "c1"]);
    const master = await received;
    const writer = new FdWriter(dup(master.fd));
    using reader = new FdReader(master);
    await fixture.ok(["start", "c1"]);
    const terminal = terminalText(reader);
    await terminal.until("ready\r\n");
    await writer.write(new TextEncoder().encode("a b\n"));
    await terminal.until("<a b>\r\n");
    setWindowSize(reader.fd, { rows: 33, columns: 44 });
    await writer.write(new TextEncoder().encode("\n"));
    await terminal.until("33 44\r\n");
    writer.close();
    reader.close();
    await fixture.until("c1", "stopped");
    await fixture.ok(["delete", "c1"]);
  });

  test("run in the foreground has the terminal it is started on, in raw mode, and puts it back", async () => {
    fixture.writeBundle(sh('stty size; read x; echo "<$x>"; exit 9'), { process: { terminal: true } });
    const pty = openPty();
    setWindowSize(pty.master.fd, { rows: 12, columns: 34 });
    using reader = new FdReader(dup(pty.master.fd));
    using writer = new FdWriter(pty.master);
    const mode = (): string => Bun.spawnSync(["stty", "-g"], { stdin: pty.terminal.fd }).stdout.toString();
    const before = mode();
    const child = Bun.spawn(["setsid", "-cw", ...fixture.argv("run", "c1")], {
      env: fixture.env,
      cwd: fixture.bundle,
      stdio: [pty.terminal.fd, pty.terminal.fd, pty.terminal.fd],
    });
    const terminal = terminalText(reader);
    await terminal.until("12 34\r\n");
    await writer.write(new TextEncoder().encode("x\r"));
    await terminal.until("<x>\r\n");
    expect(await child.exited).toBe(9);
    expect(mode()).toBe(before);
    pty.terminal.close();
  });

  test("warnings are for a terminal, and stay out of the container's standard error elsewhere", async () => {
    fixture.script({ warnings: ["process.apparmorProfile x is not applied"] });
    fixture.writeBundle(sh("echo said >&2"));
    const elsewhere = await fixture.run(["run", "c1"]);
    expect(elsewhere).toEqual({ exitCode: 0, stdout: "", stderr: "said\n" });
    const pty = openPty();
    using reader = new FdReader(pty.master);
    const child = Bun.spawn(fixture.argv("run", "c2"), {
      env: fixture.env,
      cwd: fixture.bundle,
      stdio: ["ignore", "ignore", pty.terminal.fd],
    });
    const text = terminalText(reader);
    await text.until("process.apparmorProfile x is not applied");
    await text.until("said\r\n");
    expect(await child.exited).toBe(0);
    pty.terminal.close();
  });

  test("exec --tty", async () => {
    fixture.writeBundle(["sleep", "1000"]);
    await fixture.ok(["run", "-d", "c1"]);
    const pty = openPty();
    using reader = new FdReader(dup(pty.master.fd));
    using writer = new FdWriter(pty.master);
    const child = Bun.spawn(
      ["setsid", "-cw", ...fixture.argv("exec", "--tty", "c1", ...sh('read x; echo "<$x>"; exit 9'))],
      {
        env: fixture.env,
        stdio: [pty.terminal.fd, pty.terminal.fd, pty.terminal.fd],
      },
    );
    await writer.write(new TextEncoder().encode("x\n"));
    await terminalText(reader).until("<x>\r\n");
    expect(await child.exited).toBe(9);
    pty.terminal.close();
    await fixture.ok(["delete", "-f", "c1"]);
  });

  /** At a terminal, but with all of its standard streams elsewhere. */
  async function atTerminal(args: readonly string[]): Promise<{ exitCode: number; out: string; mode: string[] }> {
    const pty = openPty();
    setWindowSize(pty.master.fd, { rows: 12, columns: 34 });
    const mode = (): string => Bun.spawnSync(["stty", "-g"], { stdin: pty.terminal.fd }).stdout.toString();
    const before = mode();
    const out = fixture.path("terminal-out");
    const script = `"$@" </dev/null >${out} 2>&1`;
    const child = Bun.spawn(["setsid", "-cw", "sh", "-c", script, "sh", ...fixture.argv(...args)], {
      env: fixture.env,
      cwd: fixture.bundle,
      stdio: [pty.terminal.fd, pty.terminal.fd, pty.terminal.fd],
    });
    const exitCode = await child.exited;
    const after = mode();
    pty.master.close();
    pty.terminal.close();
    return { exitCode, out: await Bun.file(out).text(), mode: [before, after] };
  }

  test("run and exec find the terminal they are started at, and redirected output has plain line ends", async () => {
    fixture.writeBundle(sh("stty size; tty >&2; printf 'a\\r\\nb\\n'; exit 9"), { process: { terminal: true } });
    const run = await atTerminal(["run", "c1"]);
    expect([run.exitCode, run.out]).toEqual([9, expect.stringMatching(/^12 34\n\/dev\/pts\/\d+\na\r\nb\n$/)]);
    expect(run.mode[1]).toBe(run.mode[0] ?? "");
    fixture.writeBundle(["sleep", "1000"]);
    await fixture.ok(["run", "-d", "c1"]);
    const exec = await atTerminal(["exec", "-t", "c1", ...sh("stty size; echo x; exit 8")]);
    expect([exec.exitCode, exec.out]).toEqual([8, "12 34\nx\n"]);
    expect(exec.mode[1]).toBe(exec.mode[0] ?? "");
    await fixture.ok(["delete", "-f", "c1"]);
  });

  test("without a terminal anywhere there is none to give", async () => {
    fixture.writeBundle(["true"], { process: { terminal: true } });
    const child = Bun.spawn(["setsid", "-w", ...fixture.argv("run", "c1")], {
      env: fixture.env,
      cwd: fixture.bundle,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const [stderr, exitCode] = await Promise.all([new Response(child.stderr).text(), child.exited]);
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining("run with a terminal: there is none")]);
  });

  test.each([
    [{ terminal: true }, [], "cannot allocate tty"],
    [{ terminal: false }, ["--console-socket", "/x"], "cannot use console socket"],
    [{ terminal: true }, ["--console-socket", "/nowhere/socket"], "connect /nowhere/socket: ENOENT"],
  ])("create of %p with %p fails", async (process_, flags, message) => {
    fixture.writeBundle(["true"], { process: process_ });
    const { exitCode, stderr } = await fixture.run(["create", ...flags, "c1"]);
    expect([exitCode, stderr]).toEqual([1, expect.stringContaining(message)]);
  });
});

function terminalText(reader: FdReader): { until(text: string): Promise<void> } {
  const decoder = new TextDecoder();
  let seen = "";
  return {
    async until(text) {
      while (!seen.includes(text)) {
        const data = await reader.read();
        if (data === null) throw new Error(`hung up after ${JSON.stringify(seen)}`);
        seen += decoder.decode(data, { stream: true });
      }
    },
  };
}

test("200 quick exits, each with its status and all of its output", async () => {
  fixture.writeBundle(["sleep", "1000"]);
  await fixture.ok(["run", "-d", "c1"]);
  const wrong: string[] = [];
  const one = async (index: number): Promise<void> => {
    const { exitCode, stdout } = await fixture.run(["exec", "c1", "sh", "-c", `echo ${index}; exit ${index % 200}`]);
    if (exitCode !== index % 200 || stdout !== `${index}\n`) wrong.push(`${index}: ${exitCode} ${stdout}`);
  };
  for (let index = 0; index < 200; index += 4) await Promise.all([0, 1, 2, 3].map((more) => one(index + more)));
  expect(wrong).toEqual([]);
  await fixture.ok(["delete", "-f", "c1"]);
}, 120_000);
