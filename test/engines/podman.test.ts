/** Through a real podman: containers, terminals, pods, volumes, networks, limits, kube play, health checks and build. */
import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pipe } from "../../src/sys/fd.ts";
import { FdReader } from "../../src/sys/fd-reader.ts";
import { FdWriter } from "../../src/sys/fd-writer.ts";
import { ENGINE_MODES, type EngineHost, engineSuite } from "../harness/engine-host.ts";
import { PODMAN_IMAGE, type Podman, startPodman } from "../harness/podman.ts";
import { readAll, startWithFds } from "../harness/preserved-fds.ts";
import { runProgram } from "../harness/program.ts";
import { until } from "../harness/until.ts";

describe.each(ENGINE_MODES)("%s", (_name, pooled) => {
  let host: EngineHost;
  let engine: Podman;

  const step = engineSuite(pooled, async (opened) => {
    host = opened;
    engine = await startPodman(join(host.hearth.dir, "podman"), host.runtimePath);
    return engine;
  });
  const must = (...args: string[]): Promise<string> => engine.must(args);

  step("run: the guest's kernel, streams apart, exact exit status", async () => {
    const script = "uname -r; echo error >&2; cat; exit 42";
    const args = ["run", "--rm", "--interactive", "--network", "none", PODMAN_IMAGE, "sh", "-c", script];
    const { status, stdout, stderr } = await engine.podman(args, { stdin: "typed\n" });
    expect({ status, stdout, stderr }).toEqual({ status: 42, stdout: `${host.kernel}\ntyped\n`, stderr: "error\n" });
  });

  step("a program that is not there: podman's own exit status for it", async () => {
    const { status, stderr } = await engine.podman(["run", "--rm", "--network", "none", PODMAN_IMAGE, "nope"]);
    expect(status).toBe(127);
    expect(stderr).toContain('"nope": executable file not found in $PATH');
  });

  step("run -it: a terminal of the right size that can be resized, and Ctrl-C", async () => {
    // Not an interactive shell: busybox's line editing loses what is typed while the window changes.
    const script = `tty; stty size; read word; echo "<$word>"
      until [ "$(stty size)" = "30 100" ]; do sleep 0.1; done; echo resized
      trap "echo interrupted; exit 7" INT; echo waiting; while :; do sleep 0.1; done`;
    const args = ["run", "--interactive", "--tty", "--rm", "--network", "none", PODMAN_IMAGE, "sh", "-c", script];
    using session = engine.atTerminal(args);
    await session.shows("/dev/pts/0\r\n24 80\r\n");
    session.type("typed\n");
    await session.shows("<typed>");
    session.resize(100, 30);
    await session.shows("resized");
    await session.shows("waiting");
    session.type("\u0003");
    await session.shows("interrupted");
    expect(await session.exited).toBe(7);
  });

  step("run and exec --preserve-fds: a pipe into the container, and one out of it", async () => {
    const runtime = {
      ...engine,
      container: "passed",
      dir: host.hearth.dir,
      argv: (...args: string[]) => engine.argv(args),
    };
    const through = async (args: readonly string[]): Promise<string> => {
      const [there, back] = [pipe({ nonBlockingWrite: true }), pipe({ nonBlockingRead: true })];
      const { child, output } = startWithFds(runtime, args, [there.readEnd, back.writeEnd]);
      const writer = new FdWriter(there.writeEnd);
      await writer.write(new TextEncoder().encode("carried\n"));
      writer.close();
      const [received, said] = await Promise.all([readAll(new FdReader(back.readEnd)), output]);
      return `${JSON.stringify(await child.exited)} ${said}${Buffer.from(received).toString()}`;
    };
    const script = ["sh", "-c", "cat <&3 >&4"];
    const run = ["run", "--rm", "--network", "none", "--preserve-fds", "2", PODMAN_IMAGE, ...script];
    expect(await through(run)).toBe('{"kind":"exited","code":0} carried\n');
    await must("run", "--detach", "--name", "passed", "--network", "none", PODMAN_IMAGE, "sleep", "1000");
    expect(await through(["exec", "--preserve-fds", "2", "passed", ...script])).toBe(
      '{"kind":"exited","code":0} carried\n',
    );
    await must("rm", "--force", "--time", "0", "passed");
  });

  describe("a container that lives", () => {
    const name = "lived-in";
    let shared: string;

    step(
      "run --detach with limits, a volume, a published port, an init and a health check",
      async () => {
        shared = join(host.hearth.dir, "shared");
        mkdirSync(shared);
        writeFileSync(join(shared, "index.html"), "from the host\n");
        const limits = ["--memory", "200m", "--cpus", "0.5", "--pids-limit", "77"];
        const volumes = ["--volume", `${shared}:/www`, "--volume", `${shared}:/fixed:ro`, "--volume", "named:/named"];
        const health = [
          "--health-cmd",
          "test -f /tmp/healthy",
          "--health-interval",
          "disable",
          "--health-retries",
          "1",
        ];
        const rest = ["--init", "--publish", "8080:80", "--tmpfs", "/scratch:size=1m", "--shm-size", "3m"];
        const script = "echo started; echo trouble >&2; exec httpd -f -h /www";
        const all = [...limits, ...volumes, ...health, ...rest];
        await must("run", "--detach", "--name", name, ...all, PODMAN_IMAGE, "sh", "-c", script);
      },
      { keeps: true },
    );

    test("logs", async () => {
      const logs = await until(
        () => engine.podman(["logs", name]),
        ({ stdout, stderr }) => stdout !== "" && stderr !== "",
      );
      expect(logs).toMatchObject({ stdout: "started\n", stderr: "trouble\n" });
    });

    test("exec: output, exit status, environment, directory, terminal", async () => {
      const script = 'echo "$GREETING $PWD"; echo err >&2; cat; exit 9';
      const args = ["exec", "-i", "--env", "GREETING=hello", "--workdir", "/www", name, "sh", "-c", script];
      const { status, stdout, stderr } = await engine.podman(args, { stdin: "in\n" });
      expect({ status, stdout, stderr }).toEqual({ status: 9, stdout: "hello /www\nin\n", stderr: "err\n" });
      const sized = 'until [ "$(stty size)" = "24 80" ]; do sleep 0.1; done; echo sized; read word; exit 3';
      using session = engine.atTerminal(["exec", "-it", name, "sh", "-c", sized]);
      await session.shows("sized");
      session.type("\n");
      expect(await session.exited).toBe(3);
    });

    test("the init is podman's, and the command its child", async () => {
      expect(await must("exec", name, "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline")).toContain("podman-init -- sh -c");
    });

    test("top with arguments of ps shows the container's processes", async () => {
      const [header = "", ...rows] = (await must("top", name, "-o", "pid,args")).trimEnd().split("\n");
      expect(header).toMatch(/^PID +COMMAND/);
      expect(rows[0]).toMatch(/^ *1 .*podman-init/);
      expect(rows.some((row) => row.includes("httpd -f -h /www"))).toBeTrue();
    });

    test("limits are those of its cgroup in the guest", async () => {
      const script = "cd /sys/fs/cgroup && cat memory.max cpu.max pids.max";
      expect(await must("exec", name, "sh", "-c", script)).toBe("209715200\n50000 100000\n77\n");
    });

    test("volumes are seen from both sides, a read-only one cannot be written", async () => {
      await must("exec", name, "sh", "-c", "echo from the container >/www/reply; echo kept >/named/file");
      expect(readFileSync(join(shared, "reply"), "utf8")).toBe("from the container\n");
      writeFileSync(join(shared, "later"), "written later\n");
      expect(await must("exec", name, "cat", "/fixed/later")).toBe("written later\n");
      expect((await engine.podman(["exec", name, "touch", "/fixed/x"])).stderr).toContain("Read-only file system");
      expect(await must("exec", name, "sh", "-c", "df -k /scratch /dev/shm | awk '{print $2}' | tail -2")).toBe(
        "1024\n3072\n",
      );
    });

    test("network: a port of the host, the host from inside, names", async () => {
      const { stdout } = await inNetns("wget", "-q", "-O", "-", "http://127.0.0.1:8080/index.html");
      expect(stdout).toBe("from the host\n");
      const gateway = (await must("exec", name, "sh", "-c", "ip route | awk '/default/ {print $3}'")).trim();
      expect(await must("exec", name, "ping", "-c", "1", "-W", "5", gateway)).toContain("1 packets received");
      expect(await must("exec", name, "sh", "-c", "grep -c host.containers.internal /etc/hosts")).toBe("1\n");
    });

    test("network reload, which replaces the interface: who connects to the port right afterwards is served", async () => {
      await must("network", "reload", name);
      const { stdout, stderr } = await inNetns("wget", "-q", "-O", "-", "http://127.0.0.1:8080/index.html");
      expect({ stdout, stderr }).toEqual({ stdout: "from the host\n", stderr: "" });
    });

    test("cp: into the running container and out of it, and never to the host", async () => {
      const [there, back] = [join(host.hearth.dir, "there"), join(host.hearth.dir, "back")];
      const content = `copied ${crypto.randomUUID()}\n`;
      writeFileSync(there, content);
      const inside = `/copied-${crypto.randomUUID()}`;
      await must("cp", there, `${name}:${inside}`);
      expect(existsSync(inside)).toBeFalse();
      expect(await must("exec", name, "sh", "-c", `cat ${inside}; echo reply >/reply`)).toBe(content);
      await must("cp", `${name}:/reply`, back);
      expect(readFileSync(back, "utf8")).toBe("reply\n");
      await must("cp", there, `${name}:/www/copied`);
      expect(readFileSync(join(shared, "copied"), "utf8")).toBe(content);
      expect((await engine.podman(["cp", there, `${name}:/scratch/`])).stderr).toContain("read-only file system");
    });

    test("cp through a link to the root of a process never reaches the host", async () => {
      const [there, back] = [join(host.hearth.dir, "sent"), join(host.hearth.dir, "fetched")];
      writeFileSync(there, "from the host\n");
      const script = "echo its own >/etc/of-container; for of in 1 self; do ln -s /proc/$of/root /root-of-$of; done";
      await must("exec", name, "sh", "-c", script);
      const sent = `etc/sent-${crypto.randomUUID()}`;
      await must("cp", `${name}:/root-of-1/etc/of-container`, back);
      expect(readFileSync(back, "utf8")).toBe("its own\n");
      await must("cp", there, `${name}:/root-of-1/${sent}`);
      expect(await must("exec", name, "cat", `/${sent}`)).toBe("from the host\n");
      // podman is none of the container's processes.
      const ofSelf = await engine.podman(["cp", `${name}:/root-of-self/etc/of-container`, back]);
      expect(ofSelf.stderr).toContain("could not be found");
      expect((await engine.podman(["cp", there, `${name}:/root-of-self/${sent}`])).status).not.toBe(0);
      expect(existsSync(`/${sent}`)).toBeFalse();
    });

    test("its network is joined by another container", async () => {
      const script = "wget -q -O - http://127.0.0.1/index.html; ip -o -4 addr show eth0";
      const output = await must("run", "--rm", "--network", `container:${name}`, PODMAN_IMAGE, "sh", "-c", script);
      expect(output).toBe(`from the host\n${await must("exec", name, "ip", "-o", "-4", "addr", "show", "eth0")}`);
    });

    test("its network cannot be joined by another VM", async () => {
      await host.ready();
      const path = (await must("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name)).trim();
      const { status, stderr } = await engine.podman(["run", "--rm", "--network", `ns:${path}`, PODMAN_IMAGE, "true"]);
      expect(status).toBe(126);
      expect(stderr).toMatch(/hearth\d connects this namespace to another VM/);
      expect(await must("exec", name, "ip", "-o", "-4", "addr", "show", "eth0")).toContain("eth0");
    });

    test("health check", async () => {
      expect((await engine.podman(["healthcheck", "run", name])).status).toBe(1);
      await must("exec", name, "touch", "/tmp/healthy");
      expect((await engine.podman(["healthcheck", "run", name])).status).toBe(0);
      expect(await must("inspect", "--format", "{{.State.Health.Status}}", name)).toBe("healthy\n");
    });

    test("stats", async () => {
      const stats: unknown = JSON.parse(await must("stats", "--no-stream", "--format", "json", name));
      expect(stats).toEqual([expect.objectContaining({ name, mem_usage: expect.stringContaining(" / 209.7MB") })]);
    });

    test("pause and unpause", async () => {
      await must("pause", name);
      expect(await must("inspect", "--format", "{{.State.Status}}", name)).toBe("paused\n");
      expect((await engine.podman(["exec", name, "true"])).status).not.toBe(0);
      await must("unpause", name);
      expect(await must("exec", name, "echo", "awake")).toBe("awake\n");
    });

    test("stop, start anew, kill, wait", async () => {
      await must("stop", "--time", "20", name);
      // The init hands the signal on: 128 + SIGTERM.
      expect(await must("wait", name)).toBe("143\n");
      await host.ready();
      await must("start", name);
      expect(await must("exec", name, "cat", "/named/file")).toBe("kept\n");
      await must("kill", "--signal", "KILL", name);
      expect(await must("wait", name)).toBe("137\n");
    });

    step("rm: nothing is left", async () => {
      await must("rm", name);
      await must("volume", "rm", "named");
    });
  });

  async function inNetns(...argv: string[]) {
    return await runProgram(engine.netns.inside(["busybox", ...argv]));
  }

  step("a pod: two containers share network, IPC, host name and /dev/shm, not processes and files", async () => {
    await must("pod", "create", "--name", "two", "--publish", "8081:80", "--hostname", "pod-host");
    const serve = "echo shared >/dev/shm/file; touch /mine; exec httpd -f -h /dev/shm";
    await must("run", "--detach", "--pod", "two", "--name", "first", PODMAN_IMAGE, "sh", "-c", serve);
    const look = [
      "uname -r; hostname; wget -q -O - http://127.0.0.1/file; cat /dev/shm/file",
      "ls /mine 2>/dev/null; ps | grep -c '[h]ttpd'",
    ].join("; ");
    const args = ["--rm", "--pod", "two", "--name", "second", PODMAN_IMAGE, "sh", "-c", look];
    // grep, which found nothing, ends with 1.
    const { status, stdout } = await engine.podman(["run", ...args]);
    expect({ status, lines: stdout.trimEnd().split("\n") }).toEqual({
      status: 1,
      lines: [host.kernel, "pod-host", "shared", "shared", "0"],
    });
    expect((await inNetns("wget", "-q", "-O", "-", "http://127.0.0.1:8081/file")).stdout).toBe("shared\n");
    // One went, the other lives on, in the same VM.
    expect(await must("exec", "first", "cat", "/dev/shm/file")).toBe("shared\n");
    if (host.usedVms().length > 1) throw new Error("the pod has more than one VM");
    await must("pod", "rm", "--force", "--time", "0", "two");
  });

  step("a pod without an infra container, which shares nothing, and one that shares no network", async () => {
    await must("pod", "create", "--name", "apart", "--infra=false");
    await must("run", "--detach", "--pod", "apart", "--name", "apart-first", PODMAN_IMAGE, "sleep", "1000000");
    await host.ready();
    expect(await must("run", "--rm", "--pod", "apart", PODMAN_IMAGE, "uname", "-r")).toBe(`${host.kernel}\n`);
    await must("pod", "rm", "--force", "--time", "0", "apart");
    await host.ready();
    await must("pod", "create", "--name", "networks", "--share", "ipc");
    const { status, stderr } = await engine.podman(["run", "--rm", "--pod", "networks", PODMAN_IMAGE, "true"]);
    expect(status).toBe(126);
    expect(stderr).toContain("apply linux.namespaces network path:");
    await must("pod", "rm", "--force", "--time", "0", "networks");
  });

  step("kube play: containers with a shared volume, a config map and limits", async () => {
    const manifest = join(host.hearth.dir, "pod.yaml");
    writeFileSync(manifest, KUBE_MANIFEST);
    await must("kube", "play", manifest);
    expect(await must("exec", "played-reader", "cat", "/volume/file", "/map/key")).toBe("written\nfrom the map");
    expect(await must("exec", "played-writer", "cat", "/sys/fs/cgroup/memory.max")).toBe("67108864\n");
    await must("kube", "down", manifest);
    await must("volume", "prune", "--force");
  });

  step("build: RUN steps are run in VMs", async () => {
    const directory = join(host.hearth.dir, "build");
    mkdirSync(directory);
    const lines = [
      `FROM ${PODMAN_IMAGE}`,
      "RUN uname -r >/kernel",
      "COPY Dockerfile /copied",
      'CMD ["cat", "/kernel"]',
    ];
    writeFileSync(join(directory, "Dockerfile"), `${lines.join("\n")}\n`);
    await must("build", "--quiet", "--tag", "localhost/built", directory);
    await host.ready();
    expect(await must("run", "--rm", "--network", "none", "localhost/built")).toBe(`${host.kernel}\n`);
    await must("rmi", "localhost/built");
  });

  step("the host's network is refused", async () => {
    const { status, stderr } = await engine.podman(["run", "--rm", "--network", "host", PODMAN_IMAGE, "true"]);
    expect(status).toBe(126);
    expect(stderr).toContain("the host's network does not reach into a VM");
  });

  step("privileged: it may mount; the devices of the host that podman lists are left out", async () => {
    const script = "mount -t tmpfs none /tmp && echo mounted; ls /dev/vda 2>/dev/null; exit 0";
    const args = ["run", "--rm", "--privileged", "--network", "none", PODMAN_IMAGE, "sh", "-c", script];
    const { status, stdout } = await engine.podman(args);
    expect({ status, stdout }).toEqual({ status: 0, stdout: "mounted\n" });
  });

  step("a network by CNI, with a published port", async () => {
    await using cni = await startPodman(join(host.hearth.dir, "cni"), host.runtimePath, "cni");
    const script = "ip -4 -o addr show eth0 | awk '{print $4}'; uname -r >/tmp/kernel; exec httpd -f -h /tmp";
    await cni.must(["run", "--detach", "--name", "web", "--publish", "8082:80", PODMAN_IMAGE, "sh", "-c", script]);
    const wget = cni.netns.inside(["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8082/kernel"]);
    const seen = await until(
      () => runProgram(wget),
      ({ status }) => status === 0,
    );
    expect(seen.stdout).toBe(`${host.kernel}\n`);
    expect(await cni.must(["logs", "web"])).toMatch(/^10\.88\.0\.\d+\/16\n$/);
  });

  test("every VM came from where it should", async () => {
    expect(await host.poolMisses()).toBe(0);
  });
});

const KUBE_MANIFEST = `apiVersion: v1
kind: ConfigMap
metadata: { name: map }
data: { key: from the map }
---
apiVersion: v1
kind: Pod
metadata: { name: played }
spec:
  terminationGracePeriodSeconds: 0
  volumes:
    - { name: volume, emptyDir: {} }
    - { name: map, configMap: { name: map } }
  containers:
    - name: writer
      image: ${PODMAN_IMAGE}
      command: [sh, -c, "echo written >/volume/file; exec sleep 1000"]
      volumeMounts: [{ name: volume, mountPath: /volume }]
      resources: { limits: { memory: 64Mi } }
    - name: reader
      image: ${PODMAN_IMAGE}
      command: [sleep, "1000"]
      volumeMounts: [{ name: volume, mountPath: /volume }, { name: map, mountPath: /map }]
`;
