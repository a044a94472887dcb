import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Fd, openFilesLimit, pipe } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { becomeSubreaper, setProcessName, spawnProcess, terminate } from "../../src/sys/process.ts";
import { runOrThrow, runProcess } from "../../src/sys/run-process.ts";
import { sleep } from "../../src/util/wait.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "hearth-proc-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

describe("spawnProcess", () => {
  test.each([
    [["sh", "-c", "exit 7"], { kind: "exited", code: 7 }],
    [["sh", "-c", "exit 137"], { kind: "exited", code: 137 }],
    [["sh", "-c", "kill -9 $$"], { kind: "signaled", signal: 9 }],
    [["sh", "-c", "kill -40 $$"], { kind: "signaled", signal: 40 }],
  ] as const)("%j ends with %j", async (argv, status) => {
    const child = spawnProcess({ argv: [...argv] });
    expect(await child.exited).toEqual(status);
    expect(child.status).toEqual(status);
    child.kill(15);
  });

  test("sends realtime signals", async () => {
    const child = spawnProcess({ argv: ["sleep", "1000"] });
    child.kill(35);
    expect(await child.exited).toEqual({ kind: "signaled", signal: 35 });
  });

  test("tells a missing program, a missing directory and a missing cgroup apart", () => {
    expect(() => spawnProcess({ argv: ["/no/such/program"] })).toThrow("start /no/such/program: ENOENT");
    expect(() => spawnProcess({ argv: ["no-such-program"] })).toThrow("start no-such-program: ENOENT");
    expect(() => spawnProcess({ argv: ["/etc/passwd"] })).toThrow("start /etc/passwd: EACCES");
    expect(() => spawnProcess({ argv: ["true"], cwd: "/no/dir" })).toThrow("use working directory /no/dir: ENOENT");
    expect(() => spawnProcess({ argv: ["true"], cgroup: "/no/cg" })).toThrow("use cgroup /no/cg: ENOENT");
    expect(() => spawnProcess({ argv: [""] })).toThrow("empty program name");
  });

  test("the child has the given environment, the given descriptors and nothing else", async () => {
    process.env["BUN_OPTIONS_PROBE"] = "1";
    const { readEnd, writeEnd } = pipe();
    using reader = new FdReader(readEnd);
    const child = spawnProcess({
      argv: ["sh", "-c", "env | sort >&5; ls /proc/self/fd >&5; pwd >&5"],
      env: { PATH: "/usr/bin:/bin", A: "b c" },
      stdio: ["ignore", "ignore", "ignore", "ignore", "ignore", writeEnd.fd],
    });
    writeEnd.close();
    expect(await child.exited).toEqual({ kind: "exited", code: 0 });
    let text = "";
    for (let chunk = await reader.read(); chunk !== null; chunk = await reader.read()) text += Buffer.from(chunk);
    // 3 is the directory that ls itself reads; "ignore" above 2 leaves a number closed.
    expect(text.split("\n")).toEqual(["A=b c", "PATH=/usr/bin:/bin", "PWD=/", "0", "1", "2", "3", "5", "/", ""]);
    delete process.env["BUN_OPTIONS_PROBE"];
  });

  test("descriptors of any number become the child's in the order they were given", async () => {
    const pipes = Array.from({ length: 5 }, () => pipe({ nonBlockingRead: true }));
    const numbers = pipes.map(({ writeEnd }) => writeEnd.fd);
    // Each takes the number of another, the one in the middle keeps its own.
    const stdio: (Fd | "ignore")[] = Array.from({ length: Math.max(...numbers) + 1 }, () => "ignore");
    numbers.forEach((fd, index) => {
      stdio[numbers.at(-1 - index) ?? 0] = fd;
    });
    const child = spawnProcess({
      argv: ["bash", "-c", `for fd in ${numbers.join(" ")}; do echo $fd >&$fd; done`],
      stdio,
    });
    for (const { writeEnd } of pipes) writeEnd.close();
    expect(await child.exited).toEqual({ kind: "exited", code: 0 });
    const texts = pipes.map(({ readEnd }) => Buffer.from(new FdReader(readEnd).readAvailable() ?? []).toString());
    expect(texts).toEqual(numbers.toReversed().map((fd) => `${fd}\n`));
  });

  test("a detached child leads a session of its own and outlives a signal to our group", async () => {
    const child = spawnProcess({ argv: ["sleep", "1000"], detached: true });
    const stat = readFileSync(`/proc/${child.pid}/stat`, "utf8").split(" ");
    expect([Number(stat[4]), Number(stat[5])]).toEqual([child.pid, child.pid]);
    child.kill(9);
    await child.exited;
  });

  test("uid and gid are set and no supplementary group is left", async () => {
    const result = await runProcess(["sh", "-c", "id -u; id -g; id -G"], { uid: 65534, gid: 65534 });
    expect(result.stdout).toBe("65534\n65534\n65534\n");
  });

  test("is born in the network namespace, and we stay in ours", async () => {
    const name = `hearth-${crypto.randomUUID().slice(0, 8)}`;
    await runOrThrow(["ip", "netns", "add", name]);
    try {
      const own = await runOrThrow(["readlink", "/proc/self/ns/net"]);
      const other = await runOrThrow(["readlink", "/proc/self/ns/net"], { netns: `/run/netns/${name}` });
      expect(other).not.toBe(own);
      expect(other).toBe(await runOrThrow(["ip", "netns", "exec", name, "readlink", "/proc/self/ns/net"]));
      expect(() => spawnProcess({ argv: ["/no/such"], netns: `/run/netns/${name}` })).toThrow("ENOENT");
      expect(await runOrThrow(["readlink", "/proc/self/ns/net"])).toBe(own);
      expect(() => spawnProcess({ argv: ["true"], netns: "/run/netns/no-such" })).toThrow("ENOENT");
      expect(() => spawnProcess({ argv: ["true"], netns: "/etc/passwd" })).toThrow("join network namespace");
    } finally {
      await runOrThrow(["ip", "netns", "del", name]);
    }
  });
});

describe("terminate", () => {
  test("TERM is enough for a polite child", async () => {
    const child = spawnProcess({ argv: ["sleep", "1000"] });
    expect(await terminate(child)).toEqual({ kind: "signaled", signal: 15 });
    expect(await terminate(child)).toEqual({ kind: "signaled", signal: 15 });
  });

  /** Resolves when it ignores TERM. */
  async function stubborn() {
    const { readEnd, writeEnd } = pipe();
    using reader = new FdReader(readEnd);
    const child = spawnProcess({
      argv: ["sh", "-c", "trap '' TERM; echo ready; exec sleep 1000"],
      stdio: ["ignore", writeEnd.fd],
    });
    await reader.read();
    writeEnd.close();
    return child;
  }

  test("KILL follows for one that ignores TERM", async () => {
    expect(await terminate(await stubborn(), { graceMs: 50 })).toEqual({ kind: "signaled", signal: 9 });
  });

  test("the grace has an end of its own", async () => {
    const kill = new AbortController();
    const ended = terminate(await stubborn(), { graceMs: 1_000_000, kill: kill.signal });
    kill.abort();
    expect(await ended).toEqual({ kind: "signaled", signal: 9 });
  });
});

describe("runProcess", () => {
  test("captures both streams and the status", async () => {
    const result = await runProcess(["sh", "-c", "echo out; echo err >&2; exit 3"]);
    expect(result).toEqual({
      status: { kind: "exited", code: 3 },
      exitCode: 3,
      stdout: "out\n",
      stderr: "err\n",
      truncated: false,
    });
  });

  test("feeds text to the program, which need not read it", async () => {
    const text = "line\n".repeat(100_000);
    expect((await runProcess(["wc", "-c"], { input: text })).stdout.trim()).toBe("500000");
    expect((await runProcess(["cat"], { input: "" })).stdout).toBe("");
    expect((await runProcess(["true"], { input: text })).exitCode).toBe(0);
  });

  test("keeps a bounded part of endless output and lets the program finish", async () => {
    const result = await runProcess(["sh", "-c", "head -c 5000000 /dev/zero; echo end >&2"], { maxOutputBytes: 1000 });
    expect(result.stdout.length).toBe(1000);
    expect(result.truncated).toBe(true);
    expect(result.stderr).toBe("end\n");
    expect(result.exitCode).toBe(0);
  });

  test("ends the program after the deadline", async () => {
    const pidFile = join(dir, "pid");
    await expect(
      runProcess(["sh", "-c", `echo $$ > ${pidFile}; exec sleep 1000`], { timeoutMs: 200 }),
    ).rejects.toMatchObject({ code: "deadline-exceeded", step: "end of sh" });
    expect(existsSync(`/proc/${readFileSync(pidFile, "utf8").trim()}`)).toBe(false);
  });

  test("ends the program when the signal aborts, and starts none when it has", async () => {
    const stop = new AbortController();
    const running = runProcess(["sleep", "1000"], { signal: stop.signal });
    stop.abort(new Error("enough"));
    await expect(running).rejects.toThrow("enough");
    await expect(runProcess(["touch", join(dir, "made")], { signal: stop.signal })).rejects.toThrow("enough");
    expect(existsSync(join(dir, "made"))).toBe(false);
  });

  test("does not wait for a daemon that keeps the pipes", async () => {
    const started = performance.now();
    const result = await runProcess(["sh", "-c", "sleep 20 & echo $!"]);
    expect(performance.now() - started).toBeLessThan(10_000);
    process.kill(Number(result.stdout), 9);
  });

  test("leaks no descriptor, also when the program is missing", async () => {
    await runProcess(["true"]);
    const before = readdirSync("/proc/self/fd").length;
    for (let i = 0; i < 20; i++) {
      await runProcess(["true"]);
      await expect(runProcess(["/no/such/program"])).rejects.toMatchObject({ code: "not-found" });
    }
    expect(readdirSync("/proc/self/fd").length).toBe(before);
    expect(openFilesLimit()).toBeGreaterThan(before);
  });

  test("runOrThrow says what the program said last", async () => {
    await expect(runOrThrow(["sh", "-c", "echo one >&2; echo two >&2; exit 4"])).rejects.toThrow(
      "run sh: exit status 4: one; two",
    );
  });
});

test("the process name is what ps shows", () => {
  const before = readFileSync("/proc/self/comm", "utf8").trim();
  setProcessName("hearth-test-name-that-is-long");
  expect(readFileSync("/proc/self/comm", "utf8")).toBe("hearth-test-nam\n");
  setProcessName(before);
});

test("a subreaper gets the orphans of its children", async () => {
  becomeSubreaper();
  const result = await runProcess(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]);
  const orphan = Number(result.stdout);
  const parent = (): number => Number(/\) \S (\d+)/.exec(readFileSync(`/proc/${orphan}/stat`, "utf8"))?.[1]);
  while (parent() !== process.pid) await sleep(1);
  process.kill(orphan, 9);
});
