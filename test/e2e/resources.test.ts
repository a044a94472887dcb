/** Containers that ask for more than the base VM has get it before they start, and by `update` later; over every factory. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { hostMemoryBytes } from "../../src/sandbox/host-memory.ts";
import { type Hearth, type OpenHearth, openHearth } from "../harness/hearth.ts";
import { type Pool, startPool, vmRecords } from "../harness/pool.ts";

const TIMEOUT_MS = 180_000;
const MIB = 1024 * 1024;
/** What version 1 shows for no limit: the largest multiple of a page. */
const UNLIMITED_V1 = "9223372036854771712";
const BASE = { vcpus: 1, memoryMib: 512 };
const SIZES = { default_vcpus: 1, default_maxvcpus: 3, default_memory: 512, default_maxmemory: 2048 };

const LOOK = "grep -c ^processor /proc/cpuinfo; awk '/MemTotal/ {print $2}' /proc/meminfo";

describe.each([
  ["direct", false, false],
  ["template", true, false],
  ["pool", false, true],
  ["pool of clones", true, true],
] as const)("over %s", (name, isTemplate, isPool) => {
  const pool = isPool ? { vm_cache_number: 1, vm_cache_timeout_ms: 60_000 } : {};
  let opened: OpenHearth;
  let hearth: Hearth;
  let server: Pool | undefined;
  beforeAll(async () => {
    opened = openHearth({
      config: { hypervisor: { shared_fs: "virtio-9p", ...SIZES }, factory: { enable_template: isTemplate, ...pool } },
    });
    hearth = opened.hearth;
    if (isPool) server = startPool(hearth, 1);
    else if (isTemplate) expect((await hearth.run(["template", "init"])).status).toBe(0);
  }, TIMEOUT_MS);
  afterAll(async () => {
    await server?.[Symbol.asyncDispose]();
    await opened.close();
  });

  async function runtime(...args: string[]): Promise<string> {
    const { status, stdout, stderr } = await hearth.runtime(["--debug", ...args]);
    if (status !== 0) process.stderr.write(opened.describe());
    expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
    const source = /msg="vm adopted".* source=(\w+)/.exec(stderr)?.[1];
    if (source !== undefined) expect(source).toBe(isPool ? "pool" : name);
    return stdout;
  }

  /** CPUs and KiB of memory that the container's kernel has. */
  async function look(id: string): Promise<{ cpus: number; memoryKib: number }> {
    const [cpus, memoryKib] = (await runtime("exec", id, "sh", "-c", LOOK)).trim().split("\n").map(Number);
    return { cpus: cpus ?? 0, memoryKib: memoryKib ?? 0 };
  }

  async function start(id: string, config: Record<string, unknown>): Promise<void> {
    await server?.idle(1);
    const bundle = await hearth.bundle({ args: ["sleep", "100000"], config });
    const { status } = await hearth.runtime(["run", "--detach", "--bundle", bundle, id], {
      outputPath: `${bundle}/output`,
    });
    if (status !== 0) throw new Error(`${await Bun.file(`${bundle}/output`).text()}${opened.describe()}`);
  }

  /** What the record says of the one VM that is in use. */
  function recorded(): { vcpus: number; memoryMib: number }[] {
    const used = vmRecords(hearth.runDir).filter(({ state }) => state === "adopted");
    return used.map(({ vcpus, memoryMib }) => ({ vcpus, memoryMib }));
  }

  /** Bytes that the VM of the container may take of this host, in its cgroup of version 1. */
  function hostBound(id: string): string {
    return readFileSync(`/sys/fs/cgroup/memory/hearth-${id}.scope/memory.limit_in_bytes`, "utf8").trim();
  }

  test(
    "more, less, and more again later",
    async () => {
      // Less is accepted as it is.
      await start("small", {
        linux: { resources: { memory: { limit: 64 * MIB }, cpu: { quota: 5000, period: 10000 } } },
      });
      expect(recorded()).toEqual([BASE]);
      expect(hostBound("small")).toBe(`${hostMemoryBytes(512)}`);
      const base = await look("small");
      expect(base.cpus).toBe(1);
      await runtime("delete", "--force", "small");

      await start("large", {
        linux: { resources: { memory: { limit: 700 * MIB }, cpu: { quota: 150_000, period: 100_000 } } },
      });
      // 700 and the guest's own 128 are 316 more than there are: three blocks of 128.
      expect(recorded()).toEqual([{ vcpus: 2, memoryMib: 512 + 384 }]);
      expect(hostBound("large")).toBe(`${hostMemoryBytes(512 + 384)}`);
      expect(await look("large")).toEqual({ cpus: 2, memoryKib: base.memoryKib + 384 * 1024 });

      await runtime("update", "--memory", `${1000 * MIB}`, "--cpu-quota", "300000", "large");
      expect(recorded()).toEqual([{ vcpus: 3, memoryMib: 512 + 640 }]);
      expect(await look("large")).toEqual({ cpus: 3, memoryKib: base.memoryKib + 640 * 1024 });
      const limit = await runtime(
        "exec",
        "large",
        "sh",
        "-c",
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max || true",
      );
      expect(limit === "" || limit.includes(`${1000 * MIB}`)).toBe(true);
      expect(hostBound("large")).toBe(`${hostMemoryBytes(512 + 640)}`);

      // Neither less nor more than may be had changes the VM, and neither is an error.
      await runtime("update", "--memory", `${64 * MIB}`, "large");
      await runtime("update", "--cpu-quota", "6400000", "large");
      expect(recorded()).toEqual([{ vcpus: 3, memoryMib: 512 + 640 }]);
      expect(hostBound("large")).toBe(`${hostMemoryBytes(512 + 640)}`);
      await runtime("update", "--memory", "-1", "large");
      expect(hostBound("large")).toBe(UNLIMITED_V1);
      await runtime("delete", "--force", "large");
    },
    TIMEOUT_MS,
  );

  test(
    "a pod's annotations, and members beyond them",
    async () => {
      const annotations = {
        "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri.sandbox-id": "pod",
        "io.kubernetes.cri.sandbox-memory": `${500 * MIB}`,
        "io.kubernetes.cri.sandbox-cpu-quota": "200000",
        "io.kubernetes.cri.sandbox-cpu-period": "100000",
      };
      await start("pod", { annotations });
      expect(recorded()).toEqual([{ vcpus: 2, memoryMib: 512 + 128 }]);
      expect(hostBound("pod")).toBe(UNLIMITED_V1);
      const member = (quota: number) => ({
        annotations: { ...annotations, "io.kubernetes.cri.container-type": "container" },
        linux: { resources: { cpu: { quota, period: 100_000 }, memory: { limit: 100 * MIB } } },
      });
      await start("member-1", member(100_000));
      expect(recorded()).toEqual([{ vcpus: 2, memoryMib: 512 + 128 }]);
      await start("member-2", member(120_000));
      expect(recorded()).toEqual([{ vcpus: 3, memoryMib: 512 + 128 }]);
      expect((await look("member-2")).cpus).toBe(3);
      expect(hostBound("pod")).toBe(`${hostMemoryBytes(512 + 128)}`);
      // One that may write as much as it likes frees the pod of its bound.
      await start("member-3", { annotations: member(0).annotations });
      expect(hostBound("pod")).toBe(UNLIMITED_V1);
      await runtime("delete", "--force", "member-3");
      for (const id of ["member-2", "member-1", "pod"]) await runtime("delete", "--force", id);
    },
    TIMEOUT_MS,
  );
});
