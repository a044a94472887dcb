import { expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLog } from "../../src/log.ts";
import { vmPaths } from "../../src/paths.ts";
import { writeJsonAtomic } from "../../src/sys/atomic-file.ts";
import { tryLock } from "../../src/sys/lock.ts";
import { bindMount, mountsUnder } from "../../src/sys/mount.ts";
import { spawnProcess } from "../../src/sys/process.ts";
import { identifyProcess, isAlive } from "../../src/sys/process-identity.ts";
import { collectOrphans, collectVm } from "../../src/vm/collect.ts";
import { VM_RECORD_VERSION, type VmRecord } from "../../src/vm/vm-record.ts";

function record(processes: VmRecord["processes"]): VmRecord {
  return {
    version: VM_RECORD_VERSION,
    vmId: "v1",
    state: "idle",
    baseIdentity: "",
    identity: "0",
    guestDigest: "0",
    hypervisor: "qemu",
    sandbox: { pid: 2, startTime: 0 },
    processes,
    sandboxSocket: "",
    qmpSocket: "",
    agentAddress: { transport: "virtio-serial", socket: "/agent.sock" },
    vcpus: 1,
    memoryMib: 128,
    sharedFs: "virtio-fs",
    readyAtMs: 0,
    containers: [],
  };
}

/** What a sandbox process that was killed leaves: a directory with a mount, a process, a record. */
function abandonedVm(runDir: string) {
  const paths = vmPaths(runDir, "v1");
  mkdirSync(join(paths.shared, "c1"), { recursive: true });
  const host = join(runDir, "host");
  mkdirSync(host);
  writeFileSync(join(host, "kept"), "kept");
  bindMount(host, join(paths.shared, "c1"));
  const child = spawnProcess({ argv: ["sleep", "1000"], detached: true });
  writeJsonAtomic(paths.record, record([{ ...identifyProcess(child.pid) }]));
  return { paths, child, host };
}

test("an abandoned VM goes: its process, its mounts, its directory, and nothing behind the mounts", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "hearth-collect-"));
  const { paths, child, host } = abandonedVm(runDir);
  const identity = identifyProcess(child.pid);
  expect(await collectOrphans(runDir, silentLog)).toEqual(["v1"]);
  expect(isAlive(identity)).toBe(false);
  expect(existsSync(paths.dir)).toBe(false);
  expect(mountsUnder(runDir)).toEqual([]);
  expect(existsSync(join(host, "kept"))).toBe(true);
  expect(await collectVm(runDir, "v1", silentLog)).toBe("absent");
  rmSync(runDir, { recursive: true });
});

test("a VM whose owner lives is left alone", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "hearth-collect-"));
  const { paths, child } = abandonedVm(runDir);
  const identity = identifyProcess(child.pid);
  {
    await using _lock = tryLock(paths.lock);
    expect(await collectVm(runDir, "v1", silentLog)).toBe("living");
    expect(isAlive(identity)).toBe(true);
  }
  expect(await collectVm(runDir, "v1", silentLog)).toBe("collected");
  rmSync(runDir, { recursive: true });
});

test("a process that has the pid of a recorded one but another start time is not touched", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "hearth-collect-"));
  const { paths, child } = abandonedVm(runDir);
  const identity = identifyProcess(child.pid);
  writeJsonAtomic(paths.record, record([{ pid: child.pid, startTime: identity.startTime + 1 }]));
  expect(await collectVm(runDir, "v1", silentLog)).toBe("collected");
  expect(isAlive(identity)).toBe(true);
  child.kill(9);
  await child.exited;
  rmSync(runDir, { recursive: true });
});

test("a damaged record does not stop the collection", async () => {
  const runDir = mkdtempSync(join(tmpdir(), "hearth-collect-"));
  const { paths, child } = abandonedVm(runDir);
  writeFileSync(paths.record, "{");
  expect(await collectVm(runDir, "v1", silentLog)).toBe("collected");
  child.kill(9);
  await child.exited;
  rmSync(runDir, { recursive: true });
});
