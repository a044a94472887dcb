import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startVirtiofsd } from "../../src/storage/virtiofsd.ts";
import { isAlive } from "../../src/sys/process-identity.ts";
import { findVirtiofsd } from "../../src/vm/host.ts";

/** Source: asm/unistd_64.h. */
const SYS_ACCEPT = "43";

test("the daemon waits for a QEMU that is slower than itself", async () => {
  const dir = mkdtempSync(join(tmpdir(), "hearth-virtiofsd-"));
  const directory = join(dir, "shared");
  mkdirSync(directory);
  {
    const path = findVirtiofsd() ?? "";
    await using daemon = await startVirtiofsd({ path, directory, socket: join(dir, "s"), log: join(dir, "log") });
    let ended: string | undefined;
    void daemon.ended.then((how) => {
      ended = how;
    });
    // Until it sits in accept(2), or has given up on it.
    while (ended === undefined && !syscallOf(daemon.identity.pid).startsWith(`${SYS_ACCEPT} `)) await Bun.sleep(5);
    expect(ended).toBeUndefined();
    expect(isAlive(daemon.identity)).toBe(true);
  }
  rmSync(dir, { recursive: true });
});

function syscallOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/syscall`, "utf8");
  } catch {
    return "";
  }
}
