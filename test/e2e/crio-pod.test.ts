/**
 * A pod as CRI-O makes it, by the command line: its annotations, and network, IPC and UTS namespaces that it keeps by
 * path. The network namespace has no interface; its localhost on the host is the VM's.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { unmount } from "../../src/sys/mount.ts";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { type Hearth, type OpenHearth, openHearth } from "../harness/hearth.ts";
import { type EngineNetns, makeEngineNetns } from "../harness/netns.ts";
import { type Pool, startPool, vmRecords } from "../harness/pool.ts";
import { runProgram } from "../harness/program.ts";
import { type Scratch, scratch } from "../harness/scratch.ts";
import { until } from "../harness/until.ts";

const TIMEOUT_MS = 180_000;

describe.each([
  ["cold", false],
  ["from the pool", true],
] as const)("%s", (_name, pooled) => {
  let opened: OpenHearth;
  let hearth: Hearth;
  let pool: Pool | undefined;
  let netns: EngineNetns;
  let kept: Scratch;

  beforeAll(async () => {
    const factory = pooled ? { vm_cache_number: 1, vm_cache_timeout_ms: 60_000 } : {};
    opened = openHearth({ config: { factory } });
    hearth = opened.hearth;
    if (pooled) pool = startPool(hearth, 1);
    netns = await makeEngineNetns();
    kept = scratch();
    for (const type of ["ipc", "uts"]) {
      writeFileSync(kept.path(type), "");
      await runOrThrow(["unshare", `--${type}=${kept.path(type)}`, "true"]);
    }
    await pool?.idle(1);
  }, TIMEOUT_MS);

  afterAll(async () => {
    for (const type of ["ipc", "uts"]) unmount(kept.path(type));
    kept[Symbol.dispose]();
    await netns[Symbol.asyncDispose]();
    await pool?.stop();
    await opened.close();
  }, TIMEOUT_MS);

  async function start(id: string, type: string, args: string[]): Promise<void> {
    const bundle = await hearth.bundle({
      args,
      hostname: "crio-pod",
      config: {
        annotations: { "io.kubernetes.cri-o.ContainerType": type, "io.kubernetes.cri-o.SandboxID": "infra" },
        linux: {
          namespaces: [
            { type: "pid" },
            { type: "mount" },
            { type: "network", path: netns.path },
            { type: "ipc", path: kept.path("ipc") },
            { type: "uts", path: kept.path("uts") },
          ],
        },
      },
    });
    const outputPath = `${bundle}/output`;
    for (const argv of [
      ["create", "--bundle", bundle, id],
      ["start", id],
    ]) {
      const { status, stdout } = await hearth.runtime(argv, { outputPath });
      if (status !== 0) throw new Error(`${argv}: ${stdout}${opened.describe()}`);
    }
  }

  async function exec(id: string, script: string): Promise<string> {
    const { status, stdout, stderr } = await hearth.runtime(["exec", id, "sh", "-c", script]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    return stdout;
  }

  const used = () => vmRecords(hearth.runDir).filter(({ state }) => state !== "idle" && state !== "booting");

  test(
    "two containers and the infra container in one VM: what they share, and what not",
    async () => {
      await start("infra", "sandbox", ["sleep", "1000000"]);
      await start("web", "container", ["sh", "-c", "echo page >/tmp/page; exec httpd -f -p 8080 -h /tmp"]);
      await start("other", "container", ["sleep", "1000000"]);
      expect(used().map(({ containers }) => containers)).toEqual([["infra", "web", "other"]]);
      const shared = "hostname; for type in ipc uts net; do readlink /proc/self/ns/$type; done";
      const seen = await exec("infra", shared);
      expect(seen).toStartWith("crio-pod\n");
      for (const id of ["web", "other"]) expect(await exec(id, shared)).toBe(seen);
      expect(await exec("other", "readlink /proc/self/ns/pid")).not.toBe(
        await exec("web", "readlink /proc/self/ns/pid"),
      );
      const page = () => hearth.runtime(["exec", "other", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/page"]);
      expect((await until(page, ({ status }) => status === 0)).stdout).toBe("page\n");
    },
    TIMEOUT_MS,
  );

  test("on the host, localhost of the pod's namespace is that of the VM", async () => {
    const wget = (port: number) =>
      runProgram(netns.inside(["busybox", "wget", "-q", "-O", "-", `http://127.0.0.1:${port}/page`]));
    expect(await wget(8080)).toMatchObject({ status: 0, stdout: "page\n" });
    expect((await wget(8081)).status).not.toBe(0);
  });

  test(
    "one container goes and the others stay; the VM goes with the infra container",
    async () => {
      expect(await hearth.runtime(["delete", "--force", "web"])).toMatchObject({ status: 0, stderr: "" });
      expect(await exec("other", "hostname")).toBe("crio-pod\n");
      expect(await hearth.runtime(["delete", "--force", "other"])).toMatchObject({ status: 0, stderr: "" });
      expect(used()).toHaveLength(1);
      expect(await hearth.runtime(["delete", "--force", "infra"])).toMatchObject({ status: 0, stderr: "" });
      expect(used()).toEqual([]);
      const refused = await runProgram(netns.inside(["busybox", "nc", "127.0.0.1", "8080"]));
      expect(refused.stderr).toContain("refused");
    },
    TIMEOUT_MS,
  );
});
