/** Steps that a lone cold container does not take: those of VMs for the pool and of templates, of networks and volumes. */
import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../../src/config/load.ts";
import { ensureTemplate } from "../../src/factory/build-template.ts";
import { createDirectFactory } from "../../src/factory/direct.ts";
import { silentLog } from "../../src/log.ts";
import type { SandboxStep } from "../../src/sandbox/steps.ts";
import { unmount } from "../../src/sys/mount.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { resolveVmConfig } from "../../src/vm/resolve-config.ts";
import { type Hearth, withHearth } from "../harness/hearth.ts";
import { rejection } from "../harness/rejection.ts";

const TIMEOUT_MS = 180_000;
const ID = `fault-steps-${process.pid}`;

const vmConfigOf = async (hearth: Hearth) =>
  await resolveVmConfig(await loadConfig({ flag: hearth.configPath, environment: undefined }), silentLog);

/** Processes and mounts are looked for when the Hearth of a test is closed. */
function expectNothing(hearth: Hearth): void {
  for (const kind of ["vm", "containers"]) {
    const dir = join(hearth.runDir, kind);
    expect(existsSync(dir) ? readdirSync(dir) : []).toEqual([]);
  }
}

const launchOf = (hearth: Hearth, failAt: SandboxStep) => ({
  runDir: hearth.runDir,
  leaseMs: 10_000,
  logLevel: "debug" as const,
  argv: [hearth.executable, "sandbox"] as const,
  failAt,
});

describe("a failing step of a VM for the pool", () => {
  for (const step of ["rehearse", "pause"] as const) {
    test(
      step,
      async () => {
        await withHearth({}, async (hearth) => {
          const direct = createDirectFactory({ ...launchOf(hearth, step), mode: "idle" });
          const error = await rejection(direct.getBaseVm(await vmConfigOf(hearth), new AbortController().signal));
          expect(String(error)).toContain(`${step}: fault injected`);
          expectNothing(hearth);
        });
      },
      TIMEOUT_MS,
    );
  }
});

describe("a failing step of making a template", () => {
  for (const step of ["close-agent", "save"] as const) {
    test(
      step,
      async () => {
        await withHearth({ config: { hypervisor: { shared_fs: "virtio-9p" } } }, async (hearth) => {
          const templateDir = join(hearth.dir, "template");
          const options = { ...launchOf(hearth, step), templateDir };
          const error = await rejection(
            ensureTemplate(options, await vmConfigOf(hearth), new AbortController().signal),
          );
          expect(String(error)).toContain(`${step}: fault injected`);
          expectNothing(hearth);
          expect(readdirSync(templateDir)).toEqual(["lock"]);
        });
      },
      TIMEOUT_MS,
    );
  }
});

test(
  "a failing step of a clone: the container's VM is booted instead, and nothing is left of the clone",
  async () => {
    const config = { hypervisor: { shared_fs: "virtio-9p" }, factory: { enable_template: true } } as const;
    await withHearth({ config }, async (hearth) => {
      for (const step of ["restore", "resume"]) {
        expect((await hearth.run(["template", "init"], { timeoutMs: TIMEOUT_MS })).status).toBe(0);
        const bundle = await hearth.bundle({ args: ["echo", "ran"] });
        const log = join(hearth.dir, `${step}.log`);
        const args = ["--log", log, "run", "--bundle", bundle, ID];
        const { status, stdout } = await hearth.runtime(args, { env: { HEARTH_FAIL_AT: step } });
        expect({ step, status, stdout }).toEqual({ step, status: 0, stdout: "ran\n" });
        expect(await Bun.file(log).text()).toContain(`${step}: fault injected`);
        expectNothing(hearth);
      }
      expect((await hearth.run(["template", "destroy"])).status).toBe(0);
    });
  },
  TIMEOUT_MS,
);

test(
  "connect-network: neither tap nor filter is left in the namespace",
  async () => {
    await runOrThrow(["ip", "netns", "add", ID]);
    try {
      await runOrThrow(["ip", "-n", ID, "link", "add", "eth0", "type", "veth", "peer", "name", "peer0"]);
      await runOrThrow(["ip", "-n", ID, "link", "set", "eth0", "up"]);
      await withHearth({}, async (hearth) => {
        const namespaces = ["pid", "ipc", "uts", "mount"].map((type) => ({ type }));
        const network = { type: "network", path: `/run/netns/${ID}` };
        const bundle = await hearth.bundle({
          args: ["true"],
          config: { linux: { namespaces: [...namespaces, network] } },
        });
        const { status, stderr } = await hearth.runtime(["run", "--bundle", bundle, ID], {
          env: { HEARTH_FAIL_AT: "connect-network" },
        });
        expect([status, stderr]).toEqual([1, expect.stringContaining("connect-network: fault injected")]);
        expectNothing(hearth);
      });
      expect(await runOrThrow(["ip", "-n", ID, "-o", "link"])).not.toContain("hearth");
      expect(await runOrThrow(["tc", "-n", ID, "qdisc", "show"])).not.toContain("ingress");
    } finally {
      await runOrThrow(["ip", "netns", "del", ID]);
    }
  },
  TIMEOUT_MS,
);

test(
  "mount-volumes: a volume in memory that the guest cannot make",
  async () => {
    await withHearth({}, async (hearth) => {
      const volume = join(hearth.dir, "kubernetes.io~empty-dir", "scratch");
      mkdirSync(volume, { recursive: true });
      await runOrThrow(["mount", "-t", "tmpfs", "tmpfs", volume]);
      try {
        const bind = { destination: "/scratch", type: "bind", source: volume, options: ["rbind", "rw"] };
        const bundle = await hearth.bundle({ args: ["true"], config: { mounts: [bind] } });
        const { status, stderr } = await hearth.runtime(["run", "--bundle", bundle, ID], {
          env: { HEARTH_FAIL_AT: "mount-volumes" },
        });
        expect([status, stderr]).toEqual([1, expect.stringContaining("mount-volumes: fault injected")]);
        expectNothing(hearth);
      } finally {
        unmount(volume);
      }
    });
  },
  TIMEOUT_MS,
);

test(
  "mirror-volume: a config map that the guest cannot copy",
  async () => {
    await withHearth({}, async (hearth) => {
      const volume = join(hearth.dir, "kubernetes.io~configmap", "settings");
      mkdirSync(volume, { recursive: true });
      const bind = { destination: "/settings", type: "bind", source: volume, options: ["rbind", "ro"] };
      const bundle = await hearth.bundle({ args: ["true"], config: { mounts: [bind] } });
      const { status, stderr } = await hearth.runtime(["run", "--bundle", bundle, ID], {
        env: { HEARTH_FAIL_AT: "mirror-volume" },
      });
      expect([status, stderr]).toEqual([1, expect.stringContaining("mirror-volume: fault injected")]);
      expectNothing(hearth);
    });
  },
  TIMEOUT_MS,
);
