import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipe } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { lock, lockDirectory, tryLock } from "../../src/sys/lock.ts";
import { spawnProcess } from "../../src/sys/process.ts";
import { runProcess } from "../../src/sys/run-process.ts";

let dir: string;
let path: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "hearth-lock-"));
  path = join(dir, "lock");
});
afterEach(() => rmSync(dir, { recursive: true }));

/** A process that holds the lock until it is killed. */
async function holdElsewhere() {
  const { readEnd, writeEnd } = pipe();
  using reader = new FdReader(readEnd);
  const child = spawnProcess({
    argv: ["flock", path, "sh", "-c", "echo held; exec sleep 1000"],
    stdio: ["ignore", writeEnd.fd],
    detached: true,
  });
  writeEnd.close();
  await reader.read();
  return child;
}

describe("tryLock", () => {
  test("is exclusive, also within one process, and ends with dispose", async () => {
    {
      await using held = tryLock(path);
      expect(held?.held).toBe(true);
      expect(statSync(path).mode & 0o777).toBe(0o600);
      expect(tryLock(path)).toBeUndefined();
      expect((await runProcess(["flock", "-n", path, "true"])).exitCode).toBe(1);
    }
    expect(existsSync(path)).toBe(true);
    using again = tryLock(path);
    expect(again?.held).toBe(true);
    again?.release();
    again?.release();
    expect(again?.held).toBe(false);
  });

  test("ends with its process, killed or not", async () => {
    const child = await holdElsewhere();
    expect(tryLock(path)).toBeUndefined();
    const waiting = lock(path, { timeoutMs: 10_000 });
    process.kill(-child.pid, 9);
    using held = await waiting;
    expect(held.held).toBe(true);
    await child.exited;
  });

  test("a child that is not given the descriptor does not keep the lock", async () => {
    const held = tryLock(path);
    const child = spawnProcess({ argv: ["sleep", "1000"] });
    try {
      held?.release();
      // Its exec closes its copy a moment after the spawn returns; one that kept it would keep it for 1000 s.
      using again = await lock(path, { timeoutMs: 10_000 });
      expect(again.held).toBe(true);
    } finally {
      child.kill(9);
      await child.exited;
    }
  });

  test("follows no link and says where the directory is missing", () => {
    writeFileSync(join(dir, "precious"), "x");
    symlinkSync(join(dir, "precious"), path);
    expect(() => tryLock(path)).toThrow("ELOOP");
    expect(() => tryLock(join(dir, "none", "lock"))).toThrow("ENOENT");
    expect(readFileSync(join(dir, "precious"), "utf8")).toBe("x");
  });
});

describe("lock", () => {
  test("ends at its deadline and when aborted", async () => {
    using _held = tryLock(path);
    await expect(lock(path, { timeoutMs: 30 })).rejects.toMatchObject({ code: "deadline-exceeded" });
    const stop = new AbortController();
    const waiting = lock(path, { signal: stop.signal }).catch((error: unknown) => error);
    stop.abort(new Error("enough"));
    expect(await waiting).toMatchObject({ message: "enough" });
  });

  test("a lock file that was removed and made anew is taken again, so that two holders cannot be", async () => {
    const first = tryLock(path);
    const waiting = lock(path, { timeoutMs: 5000 });
    rmSync(path);
    using second = await waiting;
    expect(second.held).toBe(true);
    expect(tryLock(path)).toBeUndefined();
    first?.release();
    expect(tryLock(path)).toBeUndefined();
  });

  test("twenty takers have it one after the other", async () => {
    let inside = 0;
    let most = 0;
    await Promise.all(
      Array.from({ length: 20 }, async () => {
        await using _held = await lock(path, { timeoutMs: 10_000 });
        inside++;
        most = Math.max(most, inside);
        await new Promise((resolve) => setImmediate(resolve));
        inside--;
      }),
    );
    expect(most).toBe(1);
  });
});

test("a directory can be locked without a file in it", async () => {
  using _held = await lockDirectory(dir);
  await expect(lockDirectory(dir, { timeoutMs: 20 })).rejects.toMatchObject({ code: "deadline-exceeded" });
  await expect(lockDirectory(join(dir, "none"))).rejects.toMatchObject({ code: "not-found" });
});
