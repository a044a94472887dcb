/** A pool whose configuration, guest, QEMU or own program change while it runs: real VMs, real files. */
import { expect, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import type { HearthConfig } from "../../src/config/config.ts";
import type { PoolStatus } from "../../src/vmcache/control.ts";
import { configToml, type Hearth, withHearth } from "../harness/hearth.ts";
import { startPool } from "../harness/pool.ts";
import { scratch } from "../harness/scratch.ts";

const TIMEOUT_MS = 240_000;
const REPOSITORY = resolve(import.meta.dir, "../..");
const BUILT_GUEST = join(REPOSITORY, "build/guest");
/** Source: asm-generic/fcntl.h. */
const O_CLOEXEC = 0o2000000;
const SMALL = { default_memory: 256 };

const isFull = ({ shapes, slots }: PoolStatus): boolean =>
  shapes.every(({ number, idle }) => idle === number) && slots.every(({ state }) => state === "idle");

/** Writes the configuration of the running server. */
function reconfigure(
  hearth: Hearth,
  hypervisor: Partial<HearthConfig["hypervisor"]>,
  factory: Partial<HearthConfig["factory"]>,
) {
  const runtime = { run_dir: hearth.runDir, data_dir: hearth.dataDir };
  writeFileSync(
    hearth.configPath,
    configToml({ hypervisor, factory: { vm_cache_endpoint: hearth.endpoint, ...factory }, runtime }),
  );
}

test(
  "a changed configuration: more VMs, another size beside them, a mistake, and back; what still matches stays",
  async () => {
    const factory = { vm_cache_number: 1 };
    await withHearth({ config: { hypervisor: SMALL, factory } }, async (hearth) => {
      await using pool = startPool(hearth, undefined);
      const first = await pool.until("one idle VM", isFull);
      const [kept] = first.idle.map(({ id }) => id);

      const size = { vcpus: 1, number: 1 };
      reconfigure(hearth, SMALL, {
        vm_cache_shapes: [
          { ...size, memory: 256 },
          { ...size, memory: 384 },
        ],
      });
      const both = await pool.until("two sizes", (status) => status.shapes.length === 2 && isFull(status));
      expect(both).toMatchObject({ boots: 2, drained: 0, losses: 0 });
      expect(both.idle.map(({ id }) => id)).toContain(kept ?? "");

      writeFileSync(hearth.configPath, "[factory]\nvm_cache_nubmer = 3\n");
      const wrong = await pool.until("a refusal", ({ configError }) => configError !== "");
      expect(wrong.configError).toContain("unknown key factory.vm_cache_nubmer");
      expect(wrong.shapes.length).toBe(2);
      expect((await hearth.run(["--config", hearth.configWith({}), "vmcache", "status"])).stdout).toContain(
        "refused: check",
      );

      reconfigure(hearth, SMALL, factory);
      const last = await pool.until("one size", (status) => status.shapes.length === 1 && isFull(status));
      expect(last).toMatchObject({ configError: "", boots: 2, drained: 1, losses: 0 });
      expect(last.idle.map(({ id }) => id)).toEqual([kept ?? ""]);

      // As above, at a hang-up alone.
      process.kill(pool.pid, "SIGHUP");
      expect(await pool.until("still full", isFull)).toMatchObject({ boots: 2, drained: 1 });
      expect(await pool.stop()).toBe(0);
    });
  },
  TIMEOUT_MS,
);

test(
  "QEMU or the kernel are replaced on disk: the pool drains itself and makes its VMs from the new ones",
  async () => {
    await withHearth({ config: { hypervisor: SMALL } }, async (hearth) => {
      const qemu = join(hearth.dir, "qemu");
      const kernel = join(hearth.dir, "vmlinux");
      const script = '#!/bin/sh\nexec /usr/bin/qemu-system-x86_64 "$@"\n';
      writeFileSync(qemu, script, { mode: 0o755 });
      copyFileSync(join(BUILT_GUEST, "vmlinux"), kernel);
      const guest = { kernel, initrd: join(BUILT_GUEST, "initrd.cpio"), image: join(BUILT_GUEST, "rootfs.erofs") };
      reconfigure(hearth, { ...SMALL, path: qemu, ...guest }, { vm_cache_number: 1 });
      await using pool = startPool(hearth, undefined);
      const identities = new Set<string>();
      const vms = new Set<string>();
      const note = ({ shapes, idle }: PoolStatus): void => {
        identities.add(shapes[0]?.identity ?? "");
        vms.add(idle[0]?.id ?? "");
      };
      note(await pool.until("the first VM", isFull));

      writeFileSync(`${qemu}.new`, script, { mode: 0o755 });
      renameSync(`${qemu}.new`, qemu);
      note(await pool.until("a VM of the new QEMU", (status) => status.drained === 1 && isFull(status)));

      utimesSync(kernel, 1, 1);
      const status = await pool.until("a VM of the new kernel", (status) => status.drained === 2 && isFull(status));
      note(status);
      expect(status).toMatchObject({ boots: 3, losses: 0 });
      expect([identities.size, vms.size]).toEqual([3, 3]);
      expect(await pool.stop()).toBe(0);
    });
  },
  TIMEOUT_MS,
);

test(
  "hearth itself is replaced: one that does not run is refused, one that does takes over in the same process",
  async () => {
    using dir = scratch();
    const executable = dir.path("hearth");
    copyFileSync(join(REPOSITORY, "dist/hearth"), executable);
    await withHearth({ config: { hypervisor: SMALL }, executable }, async (hearth) => {
      await using pool = startPool(hearth, 1);
      const first = await pool.until("the first VM", isFull);
      expect(passedOn(pool.pid)).toEqual([]);

      writeFileSync(`${hearth.executable}.half`, "\x7fELF", { mode: 0o755 });
      renameSync(hearth.executable, `${hearth.executable}.good`);
      renameSync(`${hearth.executable}.half`, hearth.executable);
      const refused = await pool.until("a refusal", ({ configError }) => configError !== "");
      expect(refused).toMatchObject({ pid: pool.pid, startedAtMs: first.startedAtMs, drained: 0 });

      copyFileSync(`${hearth.executable}.good`, `${hearth.executable}.new`);
      chmodSync(`${hearth.executable}.new`, 0o755);
      renameSync(`${hearth.executable}.new`, hearth.executable);
      const isNew = (status: PoolStatus): boolean => status.startedAtMs !== first.startedAtMs && isFull(status);
      const last = await pool.until("the new server's VM", isNew);
      expect(last).toMatchObject({ pid: pool.pid, boots: 1, adopted: 0, configError: "" });
      expect(last.idle[0]?.id).not.toBe(first.idle[0]?.id ?? "");
      expect(readlinkSync(`/proc/${pool.pid}/exe`)).toBe(hearth.executable);
      expect(passedOn(pool.pid)).toEqual([]);
      expect(await pool.stop()).toBe(0);
    });
  },
  TIMEOUT_MS,
);

/** What a process has open, its standard streams aside, that the program it becomes would have too. */
function passedOn(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    const flags = /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"))?.[1] ?? "0";
    return Number(fd) > 2 && (Number.parseInt(flags, 8) & O_CLOEXEC) === 0;
  });
}
