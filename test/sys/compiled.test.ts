import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runOrThrow, runProcess } from "../../src/sys/run-process.ts";

const source = join(import.meta.dir, "fixtures", "compiled-probe.ts");
let dir: string;
let program: string;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "hearth-compiled-"));
  program = join(dir, "probe");
  const flags = ["--compile", "--bytecode", "--minify", "--format=esm"];
  await runOrThrow([process.execPath, "build", ...flags, source, "--outfile", program], {
    cwd: dir,
    timeoutMs: 60_000,
  });
}, 70_000);
afterAll(() => rmSync(dir, { recursive: true }));

const expected = {
  pipeBytes: 1_000_000,
  ptyText: "from pty\r\n",
  orphanStatus: { kind: "exited", code: 9, command: "sh" },
  echoed: "echo",
  lockedOut: true,
  mounts: 1,
};

test("the executable does what the source does", async () => {
  const result = await runProcess([program], { timeoutMs: 20_000 });
  expect(result.stderr).toBe("");
  expect(JSON.parse(result.stdout)).toEqual({ ...expected, self: `child of ${program}`, compiled: true });
  expect(result.exitCode).toBe(0);
});

test("the source, run on its own, too", async () => {
  const result = await runProcess([process.execPath, source], { timeoutMs: 20_000 });
  expect(result.stderr).toBe("");
  expect(JSON.parse(result.stdout)).toMatchObject({ ...expected, compiled: false });
});

test("a process in which nothing waits any more ends by itself", async () => {
  const result = await runProcess([program, "idle"], { timeoutMs: 10_000 });
  expect(result).toMatchObject({ stdout: "idle", exitCode: 0 });
});
