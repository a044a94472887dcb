/** How a pool server ends and what happens to its VMs: killed and started again, Ctrl-C, and Quit in the worst moment. */
import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { dup } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { FdWriter } from "../../src/sys/fd-writer.ts";
import { tryLock } from "../../src/sys/lock.ts";
import { processExit, signalProcess } from "../../src/sys/process-identity.ts";
import { openPty } from "../../src/sys/pty.ts";
import { SIGKILL, SIGSTOP, SIGTERM } from "../../src/sys/signals.ts";
import { stopVmCache, vmCacheStatus } from "../../src/vmcache/control.ts";
import { eventually } from "../harness/eventually.ts";
import { type ConfigOverrides, type Hearth, withHearth } from "../harness/hearth.ts";
import { mountsBelow, processesUsing } from "../harness/leftovers.ts";
import { processOf, startPool, vmRecords } from "../harness/pool.ts";
import { PATH } from "../harness/program.ts";
import { rejection } from "../harness/rejection.ts";
import { scratch } from "../harness/scratch.ts";

const TIMEOUT_MS = 240_000;
const ID = `restart-${process.pid}`;

const config: ConfigOverrides = {
  hypervisor: { default_memory: 256 },
  // A VM that is claimed and not adopted is soon gone.
  factory: { vm_cache_number: 1, vm_cache_timeout_ms: 60_000, vm_cache_lease_ms: 1000 },
};

/** A container that sleeps, in a VM from the pool, and that VM's id. */
async function startPooled(hearth: Hearth): Promise<string> {
  const idle = new Set((await vmCacheStatus(hearth.endpoint)).idle.map(({ id }) => id));
  const bundle = await hearth.bundle({ args: ["sleep", "1000"] });
  const child = Bun.spawn([hearth.runtimePath, "run", "--detach", "--bundle", bundle, ID], {
    env: { PATH, ...hearth.env },
    argv0: "hearth-runtime",
    stdio: ["ignore", "ignore", "ignore"],
  });
  expect(await child.exited).toBe(0);
  const [record] = vmRecords(hearth.runDir).filter(({ state }) => state === "adopted");
  expect(idle.has(record?.vmId ?? "")).toBe(true);
  return record?.vmId ?? "";
}

async function expectRunning(hearth: Hearth): Promise<void> {
  expect((await hearth.runtime(["exec", ID, "echo", "undisturbed"])).stdout).toBe("undisturbed\n");
}

async function endContainer(hearth: Hearth): Promise<void> {
  expect((await hearth.runtime(["delete", "--force", ID])).status).toBe(0);
}

test(
  "killed with idle VMs and one in use, and started again: all are as before, and status lists all there is",
  async () => {
    await withHearth({ config }, async (hearth) => {
      await using first = startPool(hearth, 2);
      await first.until("two idle VMs", ({ idle }) => idle.length === 2);
      const used = await startPooled(hearth);
      const before = await first.until("two idle VMs again", ({ idle }) => idle.length === 2);
      expect(await first.stop("SIGKILL")).not.toBe(0);
      await expectRunning(hearth);

      await using second = startPool(hearth, 2);
      const after = await second.until("the same VMs", ({ idle }) => idle.length === 2);
      expect(ids(after.idle)).toEqual(ids(before.idle));
      expect(after).toMatchObject({ adopted: 2, boots: 0, handedOut: [{ id: used, state: "adopted" }] });
      await expectRunning(hearth);
      // An adopted one is as good as one that it has booted itself.
      expect(ids(before.idle)).toContain((await second.claim()).id);
      await second.until("two idle VMs once more", ({ idle }) => idle.length === 2);

      // Another size: the idle ones match no longer.
      expect(await second.stop("SIGKILL")).not.toBe(0);
      const other = hearth.configWith({ hypervisor: { default_memory: 384 } });
      await using third = startPool({ ...hearth, env: { HEARTH_CONFIG: other } }, 1);
      const last = await third.until("a VM of the other size", ({ idle }) => idle.length === 1);
      expect(last).toMatchObject({ adopted: 0, boots: 1 });
      expect(ids(last.handedOut)).toEqual([used]);
      expect(last.idle[0]?.memoryMib).toBe(384);
      await eventually("nothing that status does not list", () =>
        unlisted(hearth, [...ids(last.idle), used]).length === 0 ? true : undefined,
      );
      await expectRunning(hearth);
      expect(await third.stop()).toBe(0);
      await expectRunning(hearth);
      await endContainer(hearth);
    });
  },
  TIMEOUT_MS,
);

function ids(vms: readonly { readonly id: string }[]): string[] {
  return vms.map(({ id }) => id).sort();
}

/** Directories, mounts and processes of VMs other than these. */
function unlisted(hearth: Hearth, listed: readonly string[]): string[] {
  const vmDir = join(hearth.runDir, "vm");
  const isListed = (text: string): boolean => listed.some((id) => text.includes(id));
  const directories = existsSync(vmDir) ? readdirSync(vmDir) : [];
  const processes = directories.filter((id) => !isListed(id)).flatMap((id) => processesUsing(join(vmDir, id)));
  return [...directories, ...mountsBelow(vmDir)]
    .filter((text) => !isListed(text))
    .concat(processes.map(({ pid }) => `${pid}`));
}

test(
  "Ctrl-C in its terminal ends the server and its idle VMs, and reaches no VM in use",
  async () => {
    await withHearth({ config }, async (hearth) => {
      const pty = openPty();
      using reader = new FdReader(dup(pty.master.fd));
      using keyboard = new FdWriter(pty.master);
      const server = Bun.spawn(["setsid", "-cw", hearth.executable, "vmcache", "serve", "--number", "1"], {
        env: { PATH, ...hearth.env },
        stdio: [pty.terminal.fd, pty.terminal.fd, pty.terminal.fd],
      });
      pty.terminal.close();
      let shown = "";
      const read = async (): Promise<void> => {
        for (let chunk = await reader.read(); chunk !== null; chunk = await reader.read()) {
          shown += new TextDecoder().decode(chunk);
        }
      };
      const watching = read().catch(() => {});
      const isFull = async () =>
        (await vmCacheStatus(hearth.endpoint).catch(() => undefined))?.idle.length === 1 ? true : undefined;
      await eventually("an idle VM", isFull, TIMEOUT_MS);
      await startPooled(hearth);
      await eventually("another idle VM", isFull, TIMEOUT_MS);
      await keyboard.write(new TextEncoder().encode("\x03"));
      expect(await server.exited).toBe(0);
      reader.close();
      await watching;
      expect(shown).toContain("^C");
      expect(vmRecords(hearth.runDir).map(({ state }) => state)).toEqual(["adopted"]);
      await expectRunning(hearth);
      await endContainer(hearth);
    });
  },
  TIMEOUT_MS,
);

for (const how of ["Quit", "SIGTERM", "SIGINT"] as const) {
  test(
    `${how} with an idle VM whose QEMU is stopped, one that boots, and claims that wait: exit 0, nothing left`,
    async () => {
      await withHearth({ config: { ...config, factory: { vm_cache_queue_length: 9 } } }, async (hearth) => {
        await using pool = startPool(hearth, 1);
        await pool.until("an idle VM", ({ idle }) => idle.length === 1);
        const [record] = vmRecords(hearth.runDir);
        expect(signalProcess(processOf(record, "qemu"), SIGSTOP)).toBe(true);
        // The first claim finds it stopped and has it replaced; all of them wait for the boot.
        const claims = [1, 2, 3].map(() => rejection(pool.claim()));
        await pool.until(
          "claims that wait while a VM boots",
          ({ waiting, shapes }) => waiting === 3 && shapes[0]?.booting === 1,
        );
        if (how === "Quit") await stopVmCache(hearth.endpoint);
        expect(await pool.stop(how === "Quit" ? undefined : how)).toBe(0);
        for (const claim of claims) expect(await claim).toMatchObject({ code: "unavailable" });
        expect(vmRecords(hearth.runDir)).toEqual([]);
      });
    },
    TIMEOUT_MS,
  );
}

test(
  "stopped while each idle VM is stuck in another way: sandbox process stopped, QEMU stopped, virtiofsd killed",
  async () => {
    await withHearth({ config }, async (hearth) => {
      await using pool = startPool(hearth, 3);
      await pool.until("three idle VMs", ({ idle }) => idle.length === 3);
      const [one, two, three] = vmRecords(hearth.runDir);
      if (one === undefined) throw new Error("no VM");
      signalProcess(one.sandbox, SIGSTOP);
      signalProcess(processOf(two, "qemu"), SIGSTOP);
      signalProcess(processOf(three, "virtiofsd"), SIGKILL);
      expect(await pool.stop()).toBe(0);
      await processExit(one.sandbox);
      expect(vmRecords(hearth.runDir)).toEqual([]);
    });
  },
  TIMEOUT_MS,
);

/** Bit of a signal's number in SigCgt of /proc/PID/status: the process has a handler for it. */
function catches(pid: number, signal: number): boolean {
  const caught = /^SigCgt:\t([0-9a-f]+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "0";
  return (BigInt(`0x${caught}`) >> BigInt(signal - 1)) % 2n === 1n;
}

test(
  "stopped while it waits for somebody who unpacks the guest, it ends at once",
  async () => {
    using data = scratch();
    mkdirSync(data.path("guest"));
    await using lock = tryLock(data.path("guest/lock"));
    expect(lock).toBeDefined();
    await withHearth({ config: { ...config, runtime: { data_dir: data.dir } } }, async (hearth) => {
      await using pool = startPool(hearth, 1);
      await eventually("a handler of TERM", () => (catches(pool.pid, SIGTERM) ? true : undefined));
      expect(await pool.stop()).toBe(0);
      expect(existsSync(hearth.endpoint)).toBe(false);
    });
  },
  TIMEOUT_MS,
);

test(
  "a storm of creates against a small pool: some wait, some boot their own, none fails",
  async () => {
    const factory = { vm_cache_number: 1, vm_cache_queue_length: 1, vm_cache_timeout_ms: 3000 };
    await withHearth({ config: { ...config, factory } }, async (hearth) => {
      await using pool = startPool(hearth, 1);
      await pool.until("an idle VM", ({ idle }) => idle.length === 1);
      const creates = Array.from({ length: 5 }, async (_, index) => {
        const bundle = await hearth.bundle({ args: ["echo", `hello ${index}`] });
        return await hearth.runtime(["run", "--bundle", bundle, `${ID}-${index}`], { timeoutMs: TIMEOUT_MS });
      });
      for (const [index, result] of (await Promise.all(creates)).entries()) {
        expect({ status: result.status, stdout: result.stdout }).toEqual({ status: 0, stdout: `hello ${index}\n` });
      }
      const status = await pool.until("a full pool", ({ idle }) => idle.length === 1);
      expect(status.hits).toBeGreaterThanOrEqual(1);
      expect(status.missesByReason["queue-full"]).toBeGreaterThanOrEqual(1);
      expect(await pool.stop()).toBe(0);
    });
  },
  TIMEOUT_MS,
);
