import { expect, test } from "bun:test";
import { copyFileSync, fsyncSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { O_RDONLY, openFd } from "../../src/sys/fd.ts";
import { pageOutFiles } from "../../src/sys/memory.ts";
import { spawnProcess } from "../../src/sys/process.ts";
import { identifyProcess } from "../../src/sys/process-identity.ts";

const LARGE_KIB = 1024;

test("mapped files leave the process's memory, and it goes on", async () => {
  const dir = mkdtempSync(join(tmpdir(), "hearth-memory-"));
  // A copy of its own: pages that another process maps too are left alone.
  const program = join(dir, "bun");
  copyFileSync(process.execPath, program);
  // Pages that are not on disk yet cannot go.
  using copy = openFd(program, O_RDONLY);
  fsyncSync(copy.fd);
  const child = spawnProcess({ argv: [program, "-e", "setInterval(() => {}, 1000)"], env: { BUN_BE_BUN: "1" } });
  while (fileKib(child.pid, program) < LARGE_KIB) await Bun.sleep(20);
  const before = fileKib(child.pid, program);
  await pageOutFiles(identifyProcess(child.pid), () => false);
  expect(fileKib(child.pid, program)).toBeGreaterThan(before / 2);
  await pageOutFiles(identifyProcess(child.pid), () => true);
  expect(fileKib(child.pid, program)).toBeLessThan(before / 2);
  expect(child.status).toBeUndefined();
  child.kill(9);
  await child.exited;
  rmSync(dir, { recursive: true });
});

/** KiB of `path` resident in the process. */
function fileKib(pid: number, path: string): number {
  let inside = false;
  let total = 0;
  for (const line of readFileSync(`/proc/${pid}/smaps`, "utf8").split("\n")) {
    if (/^[0-9a-f]+-/.test(line)) inside = line.endsWith(path);
    else if (inside && line.startsWith("Rss:")) total += Number(/\d+/.exec(line)?.[0]);
  }
  return total;
}
