/** Through a real dockerd: containers, terminals, volumes, published ports, limits, restart policy and compose. */
import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DOCKER_IMAGE, type Docker, startDocker } from "../harness/docker.ts";
import { ENGINE_MODES, type EngineHost, engineSuite } from "../harness/engine-host.ts";
import { runProgram } from "../harness/program.ts";
import { systemCallProgram } from "../harness/system-call-program.ts";
import { until } from "../harness/until.ts";

describe.each(ENGINE_MODES)("%s", (_name, pooled) => {
  let host: EngineHost;
  let engine: Docker;

  const step = engineSuite(pooled, async (opened) => {
    host = opened;
    engine = await startDocker(join(host.hearth.dir, "docker"), host.runtimePath);
    return engine;
  });
  const must = (...args: string[]): Promise<string> => engine.must(args);

  step("run: the guest's kernel, streams apart, exact exit status", async () => {
    const args = ["run", "--rm", "--interactive", "--network", "none", DOCKER_IMAGE];
    const script = "uname -r; echo error >&2; cat; exit 42";
    const { status, stdout, stderr } = await engine.docker([...args, "sh", "-c", script], { stdin: "typed\n" });
    expect({ status, stdout, stderr }).toEqual({ status: 42, stdout: `${host.kernel}\ntyped\n`, stderr: "error\n" });
  });

  step("a program that is not there: docker's own exit status for it", async () => {
    const { status, stderr } = await engine.docker(["run", "--rm", "--network", "none", DOCKER_IMAGE, "nope"]);
    expect(status).toBe(127);
    expect(stderr).toContain('"nope": executable file not found in $PATH');
  });

  step(
    "a system call newer than docker's seccomp profile is not implemented, one that it leaves out is refused",
    async () => {
      const dir = join(host.hearth.dir, "calls");
      mkdirSync(dir);
      // Beyond all that there are, and keyctl.
      writeFileSync(join(dir, "newer"), systemCallProgram(4095), { mode: 0o755 });
      writeFileSync(join(dir, "refused"), systemCallProgram(250), { mode: 0o755 });
      const args = ["run", "--rm", "--network", "none", "--volume", `${dir}:/calls`, DOCKER_IMAGE];
      expect(await must(...args, "sh", "-c", "/calls/newer; echo $?; /calls/refused; echo $?")).toBe("38\n1\n");
    },
  );

  step("privileged: it may mount; the devices of the host that docker lists are left out", async () => {
    const script = "mount -t tmpfs none /tmp && echo mounted; ls /dev/vda 2>/dev/null; exit 0";
    const args = ["run", "--rm", "--privileged", "--network", "none", DOCKER_IMAGE, "sh", "-c", script];
    const { status, stdout } = await engine.docker(args);
    expect({ status, stdout }).toEqual({ status: 0, stdout: "mounted\n" });
  });

  describe("a container that lives", () => {
    const name = "lived-in";
    let shared: string;

    step(
      "run --detach with limits, volumes, a published port and an init",
      async () => {
        shared = join(host.hearth.dir, "shared");
        mkdirSync(shared);
        writeFileSync(join(shared, "index.html"), "from the host\n");
        const limits = ["--memory", "200m", "--cpus", "0.5", "--pids-limit", "77"];
        const volumes = ["--volume", `${shared}:/www`, "--volume", "named:/named"];
        const rest = ["--init", "--publish", "8080:80", "--tmpfs", "/scratch:size=1m", "--shm-size", "3m"];
        const script = "echo started; echo trouble >&2; exec httpd -f -h /www";
        const args = ["run", "--detach", "--name", name, ...limits, ...volumes, ...rest];
        await must(...args, DOCKER_IMAGE, "sh", "-c", script);
      },
      { keeps: true },
    );

    test("top: docker looks for the process that stands for the container on the host", async () => {
      const [, ...rows] = (await must("top", name)).trimEnd().split("\n");
      expect(rows).toEqual([expect.stringContaining("hearth")]);
    });

    test("logs", async () => {
      const logs = await until(
        () => engine.docker(["logs", name]),
        ({ stdout, stderr }) => stdout !== "" && stderr !== "",
      );
      expect(logs).toMatchObject({ stdout: "started\n", stderr: "trouble\n" });
    });

    test("exec: output, exit status, environment, directory, terminal", async () => {
      const script = 'echo "$GREETING $PWD"; echo err >&2; cat; exit 9';
      const args = ["exec", "-i", "--env", "GREETING=hello", "--workdir", "/www", name, "sh", "-c", script];
      const { status, stdout, stderr } = await engine.docker(args, { stdin: "in\n" });
      expect({ status, stdout, stderr }).toEqual({ status: 9, stdout: "hello /www\nin\n", stderr: "err\n" });
      const terminal = 'read word; echo "<$word>"; until [ "$(stty size)" = "30 100" ]; do sleep 0.1; done; exit 3';
      using session = engine.atTerminal(["exec", "-it", name, "sh", "-c", terminal]);
      session.type("typed\n");
      await session.shows("<typed>");
      session.resize(100, 30);
      expect(await session.exited).toBe(3);
    });

    test("limits are those of its cgroup in the guest; update changes them", async () => {
      const script = "cd /sys/fs/cgroup && cat memory.max cpu.max pids.max";
      expect(await must("exec", name, "sh", "-c", script)).toBe("209715200\n50000 100000\n77\n");
      await must("update", "--memory", "250m", "--memory-swap", "250m", name);
      expect(await must("exec", name, "cat", "/sys/fs/cgroup/memory.max")).toBe("262144000\n");
    });

    test("volumes are seen from both sides; memory has its size", async () => {
      await must("exec", name, "sh", "-c", "echo from the container >/www/reply; echo kept >/named/file");
      expect(readFileSync(join(shared, "reply"), "utf8")).toBe("from the container\n");
      const sizes = "df -k /scratch /dev/shm | awk '{print $2}' | tail -2";
      expect(await must("exec", name, "sh", "-c", sizes)).toBe("1024\n3072\n");
    });

    test("network: a port of the host, the bridge from inside, its own name", async () => {
      const { stdout } = await inNetns("wget", "-q", "-O", "-", "http://127.0.0.1:8080/index.html");
      expect(stdout).toBe("from the host\n");
      const gateway = (await must("exec", name, "sh", "-c", "ip route | awk '/default/ {print $3}'")).trim();
      expect(await must("exec", name, "ping", "-c", "1", "-W", "5", gateway)).toContain("1 packets received");
      expect(await must("exec", name, "sh", "-c", "grep -c $(hostname) /etc/hosts")).toBe("1\n");
    });

    test("a network that it is connected to while it runs", async () => {
      await must("network", "create", "--subnet", "10.77.0.0/24", "later");
      await must("network", "connect", "--ip", "10.77.0.9", "later", name);
      const addresses = () => must("exec", name, "ip", "-4", "-o", "addr");
      await until(addresses, (seen) => seen.includes("10.77.0.9/24"));
      expect(await must("exec", name, "ping", "-c", "1", "-W", "5", "10.77.0.1")).toContain("1 packets received");
      await must("network", "disconnect", "later", name);
      await until(addresses, (seen) => !seen.includes("10.77.0.9/24"));
      await must("network", "connect", "--ip", "10.77.0.8", "later", name);
      await until(addresses, (seen) => seen.includes("10.77.0.8/24"));
      await must("network", "disconnect", "later", name);
      await must("network", "rm", "later");
      const { stdout } = await inNetns("wget", "-q", "-O", "-", "http://127.0.0.1:8080/index.html");
      expect(stdout).toBe("from the host\n");
    });

    test("stats and top", async () => {
      // The whole VM's, against its bound on the host.
      expect(await must("stats", "--no-stream", "--format", "{{.MemUsage}}", name)).toMatch(/^[\d.]+MiB \/ /);
      expect(await must("exec", name, "ps")).toContain("httpd -f -h /www");
    });

    test("pause and unpause", async () => {
      await must("pause", name);
      expect(await must("inspect", "--format", "{{.State.Status}}", name)).toBe("paused\n");
      await must("unpause", name);
      expect(await must("exec", name, "echo", "awake")).toBe("awake\n");
    });

    test("stop, start anew, kill, wait", async () => {
      await must("stop", "--time", "20", name);
      expect(await must("inspect", "--format", "{{.State.ExitCode}}", name)).toBe("143\n");
      await host.ready();
      await must("start", name);
      expect(await must("exec", name, "cat", "/named/file")).toBe("kept\n");
      const waiting = must("wait", name);
      await must("kill", name);
      expect(await waiting).toBe("137\n");
    });

    step("rm: nothing is left", async () => {
      await must("rm", "--volumes", name);
      await must("volume", "rm", "named");
    });
  });

  async function inNetns(...argv: string[]) {
    return await runProgram(engine.netns.inside(["busybox", ...argv]));
  }

  step(
    "a container whose memory runs out: docker knows why it ended; of another process's end it lives on",
    async () => {
      const limits = ["--memory", "40m", "--memory-swap", "40m", "--network", "none"];
      const script = 'sh -c "tail /dev/zero" 2>/dev/null; echo $?; exec tail /dev/zero';
      const { status, stdout } = await engine.docker([
        "run",
        "--name",
        "big",
        ...limits,
        DOCKER_IMAGE,
        "sh",
        "-c",
        script,
      ]);
      expect({ status, stdout }).toEqual({ status: 137, stdout: "137\n" });
      expect(await must("inspect", "--format", "{{.State.OOMKilled}}", "big")).toBe("true\n");
      await must("rm", "big");
    },
  );

  step("restart policy: a container that fails is started anew, as often as was said", async () => {
    const args = ["run", "--detach", "--name", "again", "--network", "none", "--restart", "on-failure:1"];
    await must(...args, DOCKER_IMAGE, "sh", "-c", "echo run; exit 3");
    const state = "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}";
    const look = () => must("inspect", "--format", state, "again");
    expect(await until(look, (seen) => seen.startsWith("exited 1"))).toBe("exited 1 3\n");
    expect(await must("logs", "again")).toBe("run\nrun\n");
    await must("rm", "again");
  });

  step("build: steps are run in VMs, as whom and where the file says; one that fails ends it", async () => {
    const directory = join(host.hearth.dir, "build");
    mkdirSync(directory);
    const build = async (...lines: string[]) => {
      writeFileSync(join(directory, "Dockerfile"), [`FROM ${DOCKER_IMAGE}`, ...lines, ""].join("\n"));
      // BuildKit runs its steps by a runc of its own, whatever the daemon's default is.
      const env = { DOCKER_BUILDKIT: "0" };
      return await engine.docker(["build", "--quiet", "--force-rm", "--tag", "built", directory], { env });
    };
    const { status, stderr } = await build(
      "ENV GREETING=hello",
      "WORKDIR /work",
      "COPY Dockerfile copied",
      "RUN chmod 777 . && uname -r >seen",
      "USER 1000:5",
      "RUN id -u >>seen2; pwd >>seen2; echo $GREETING >>seen2; head -1 copied >>seen2",
      'CMD ["cat", "seen", "seen2"]',
    );
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    const seen = [host.kernel, "1000", "/work", "hello", `FROM ${DOCKER_IMAGE}`];
    expect(await must("run", "--rm", "--network", "none", "built")).toBe(`${seen.join("\n")}\n`);
    const failed = await build("RUN exit 7");
    expect(failed.status).toBe(7);
    expect(failed.stderr).toContain("returned a non-zero code: 7");
    await must("rmi", "built");
  });

  step("compose: two services, the one reaches the other by its name", async () => {
    const directory = join(host.hearth.dir, "composed");
    mkdirSync(directory);
    writeFileSync(join(directory, "docker-compose.yml"), COMPOSE_FILE);
    await engine.compose(["up", "--detach"], directory);
    const logs = await until(
      () => engine.compose(["logs", "--no-color", "client"], directory),
      (seen) => seen.includes("served"),
    );
    expect(logs).toMatch(/client.* served$/m);
    await engine.compose(["down", "--timeout", "0"], directory);
  });

  test("every VM came from where it should", async () => {
    expect(await host.poolMisses()).toBe(0);
  });
});

/** On a network of their own, where docker's name server knows the services. */
const COMPOSE_FILE = `version: "2.4"
services:
  web:
    image: ${DOCKER_IMAGE}
    command: ["sh", "-c", "echo served >/tmp/file; exec httpd -f -h /tmp"]
  client:
    image: ${DOCKER_IMAGE}
    command: ["sh", "-c", "until wget -q -O - http://web/file; do sleep 0.2; done; sleep 1000"]
`;
