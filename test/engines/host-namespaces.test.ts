/** What engines' flags for the host's namespaces come to: those of the VM, which is not the host, or a refusal that names them. */
import { describe, expect } from "bun:test";
import { hostname } from "node:os";
import { join } from "node:path";
import { DOCKER_IMAGE, startDocker } from "../harness/docker.ts";
import { type Engine, type EngineHost, engineSuite } from "../harness/engine-host.ts";
import { PODMAN_IMAGE, startPodman } from "../harness/podman.ts";
import type { ProgramResult } from "../harness/program.ts";

/** The kernel, process 1, the host name, the place in the hierarchy of cgroups. */
const SCRIPT = "uname -r; cat /proc/1/comm; hostname; cat /proc/self/cgroup";

interface Runner extends Engine {
  run(flags: readonly string[]): Promise<ProgramResult>;
}

async function startPodmanRunner(host: EngineHost): Promise<Runner> {
  const engine = await startPodman(join(host.hearth.dir, "podman"), host.runtimePath);
  return { ...engine, run: (flags) => engine.podman(["run", "--rm", ...flags, PODMAN_IMAGE, "sh", "-c", SCRIPT]) };
}

async function startDockerRunner(host: EngineHost): Promise<Runner> {
  const engine = await startDocker(join(host.hearth.dir, "docker"), host.runtimePath);
  return { ...engine, run: (flags) => engine.docker(["run", "--rm", ...flags, DOCKER_IMAGE, "sh", "-c", SCRIPT]) };
}

/** What is different from a container without the flag. */
const FLAGS: readonly (readonly [flag: string, differs: { readonly init?: string; readonly named?: RegExp }])[] = [
  ["--pid=host", { init: "init" }],
  ["--ipc=host", {}],
  ["--uts=host", { named: /./ }],
  ["--cgroupns=host", {}],
  ["--userns=host", {}],
];

describe.each([
  ["podman", startPodmanRunner, 126],
  ["docker", startDockerRunner, 125],
] as const)("%s", (_name, start, refusal) => {
  let host: EngineHost;
  let engine: Runner;
  const step = engineSuite(false, async (opened) => {
    host = opened;
    engine = await start(host);
    return engine;
  });

  for (const [flag, { init = "sh", named = /^[0-9a-f]{12}$/ }] of FLAGS) {
    step(`${flag}: the VM's`, async () => {
      const { status, stdout, stderr } = await engine.run(["--network=none", flag]);
      expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
      const [kernel, first, hostName, cgroup] = stdout.split("\n");
      expect([kernel, first]).toEqual([host.kernel, init]);
      expect(hostName).toMatch(named);
      expect(hostName).not.toBe(hostname());
      // Of cgroup v2, which the guest has, whatever the host has.
      expect(cgroup).toMatch(/^0::\//);
    });
  }

  step("--network=host is refused, and says what", async () => {
    const { status, stdout, stderr } = await engine.run(["--network=host"]);
    expect({ status, stdout }).toEqual({ status: refusal, stdout: "" });
    expect(stderr).toContain("linux.namespaces");
    expect(stderr).toContain("the host's network");
    expect(stderr).toContain("does not reach into a VM");
  });
});
