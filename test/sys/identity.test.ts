import { describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { ChildReaper, tryReap } from "../../src/sys/child-reaper.ts";
import { pipe } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { becomeSubreaper, spawnProcess } from "../../src/sys/process.ts";
import {
  childPids,
  identifyProcess,
  isAlive,
  processExit,
  processStat,
  signalProcess,
} from "../../src/sys/process-identity.ts";
import { sleep } from "../../src/util/wait.ts";

becomeSubreaper();

/**
 * Starts a grandchild that becomes our child when the shell in between has ended, and only then runs `command`: a shell
 * reaps what ends before it does.
 */
async function startOrphan(command: string): Promise<number> {
  const gate = pipe();
  const answer = pipe();
  using reader = new FdReader(answer.readEnd);
  const shell = spawnProcess({
    argv: ["sh", "-c", `(exec 1>&-; read line <&3; exec 3<&-; ${command}) & echo $!`],
    stdio: ["ignore", answer.writeEnd.fd, "ignore", gate.readEnd.fd],
  });
  answer.writeEnd.close();
  gate.readEnd.close();
  const pid = Number(Buffer.from((await reader.read()) ?? "").toString());
  expect(pid).toBeGreaterThan(1);
  await shell.exited;
  expect(processStat(pid)?.parentPid).toBe(process.pid);
  gate.writeEnd.close();
  return pid;
}

describe("identities", () => {
  test("alive, signalled, zombie, gone", async () => {
    const pid = await startOrphan("exec sleep 1000");
    const identity = identifyProcess(pid);
    expect(isAlive(identity)).toBe(true);
    expect(signalProcess({ pid, startTime: identity.startTime - 1 }, 9)).toBe(false);
    expect(isAlive(identity)).toBe(true);
    const exit = processExit(identity);
    expect(signalProcess(identity, 9)).toBe(true);
    await exit;
    expect(processStat(pid)?.state).toBe("Z");
    expect(isAlive(identity)).toBe(false);
    expect(signalProcess(identity, 0)).toBe(false);
    await processExit(identity);
    expect(tryReap(pid)).toEqual({ kind: "signaled", signal: 9 });
    expect(tryReap(pid)).toBe("not-a-child");
    expect(isAlive(identity)).toBe(false);
    expect(signalProcess(identity, 9)).toBe(false);
    await processExit(identity);
  });

  test("the end of a process that is no child of ours is noticed", async () => {
    const { readEnd, writeEnd } = pipe();
    using reader = new FdReader(readEnd);
    const parent = spawnProcess({
      argv: ["sh", "-c", "sleep 1000 & echo $!; wait"],
      stdio: ["ignore", writeEnd.fd],
    });
    writeEnd.close();
    const identity = identifyProcess(Number(Buffer.from((await reader.read()) ?? "").toString()));
    expect(processStat(identity.pid)?.parentPid).toBe(parent.pid);
    const stop = new AbortController();
    const given = processExit(identity, stop.signal).catch((error: unknown) => error);
    stop.abort(new Error("enough"));
    expect(await given).toMatchObject({ message: "enough" });
    const exit = processExit(identity);
    signalProcess(identity, 15);
    await exit;
    await parent.exited;
  });

  test("many waits leave no descriptor open", async () => {
    const before = readdirSync("/proc/self/fd").length;
    const children = Array.from({ length: 20 }, () => spawnProcess({ argv: ["sleep", "1000"] }));
    const waits = children.map((child) => processExit(identifyProcess(child.pid)));
    for (const child of children) child.kill(9);
    await Promise.all(waits);
    await Promise.all(children.map((child) => child.exited));
    expect(readdirSync("/proc/self/fd").length).toBe(before);
  });
});

describe("ChildReaper", () => {
  test("gives the status of a running child, of one that has ended, and of one that was swept", async () => {
    using reaper = new ChildReaper();
    const running = await startOrphan("sleep 0.05; exit 7");
    expect(tryReap(running)).toBe("running");
    const [first, second] = await Promise.all([reaper.wait(running), reaper.wait(running)]);
    expect(first).toEqual({ kind: "exited", code: 7, command: "sh" });
    expect(second).toEqual(first);
    const ended = await startOrphan("exit 8");
    while (processStat(ended)?.state !== "Z") await sleep(1);
    expect(await reaper.wait(ended)).toEqual({ kind: "exited", code: 8, command: "sh" });
    const swept = await startOrphan("exec sh -c 'kill -9 $$'");
    while (processStat(swept)?.state !== "Z") await sleep(1);
    expect(reaper.sweep()).toBeGreaterThanOrEqual(1);
    expect(processStat(swept)).toBeUndefined();
    expect(await reaper.wait(swept)).toEqual({ kind: "signaled", signal: 9, command: "sh" });
    await expect(reaper.wait(swept)).rejects.toMatchObject({ errno: "ECHILD" });
    await expect(reaper.wait(1)).rejects.toMatchObject({ errno: "ECHILD" });
  });

  test("sweeps on SIGCHLD, and the runtime still gets its own children", async () => {
    using reaper = new ChildReaper();
    reaper.start();
    const children = Array.from({ length: 30 }, (_, index) =>
      spawnProcess({ argv: ["sh", "-c", `(exit 5) & exit ${index}`] }),
    );
    const statuses = await Promise.all(children.map((child) => child.exited));
    expect(statuses).toEqual(children.map((_, index) => ({ kind: "exited", code: index })));
    const orphan = await startOrphan("sleep 0.02");
    while (processStat(orphan) !== undefined) await sleep(1);
    const zombies = readdirSync("/proc").filter(
      (name) =>
        /^\d+$/.test(name) &&
        processStat(Number(name))?.parentPid === process.pid &&
        processStat(Number(name))?.state === "Z",
    );
    expect(zombies).toEqual([]);
  });

  test("never touches a child of the runtime", async () => {
    const child = spawnProcess({ argv: ["sleep", "1000"] });
    expect(() => tryReap(child.pid)).toThrow("the runtime does that");
    expect(() => tryReap(-1)).toThrow("reap process -1");
    child.kill(9);
    await child.exited;
  });
});

test("children of a process, and of one that has none or has gone", async () => {
  const shell = spawnProcess({ argv: ["sh", "-c", "sleep 1000 & echo; wait"] });
  let children = childPids(shell.pid);
  while (children.length === 0) children = childPids(shell.pid);
  const [child = 0] = children;
  expect(children).toEqual([child]);
  expect(processStat(child)?.parentPid).toBe(shell.pid);
  expect(childPids(child)).toEqual([]);
  process.kill(child, "SIGKILL");
  shell.kill(9);
  await shell.exited;
  expect(childPids(shell.pid)).toEqual([]);
});
