/** Through containerd's CRI plug-in, as a kubelet does it: a pod with a network, its containers, volumes and streams. */
import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Message, MessageInitShape } from "@bufbuild/protobuf";
import { mount, unmount } from "../../src/sys/mount.ts";
import {
  type ContainerConfigSchema,
  ContainerState,
  NamespaceMode,
  type PodSandboxConfigSchema,
  PodSandboxState,
} from "../gen/cri_pb.ts";
import { TEST_IMAGE } from "../harness/containerd.ts";
import { type Cri, POD_GATEWAY, POD_GATEWAY6, startCri } from "../harness/cri.ts";
import { ENGINE_MODES, type EngineHost, engineSuite } from "../harness/engine-host.ts";
import { runProgram } from "../harness/program.ts";
import { until } from "../harness/until.ts";

const MIB = 1024n * 1024n;

describe.each(ENGINE_MODES)("%s", (_name, pooled) => {
  let host: EngineHost;
  let engine: Cri;
  let sandboxConfig: MessageInitShape<typeof PodSandboxConfigSchema>;
  let podSandboxId: string;
  let address: string;
  let server: string;
  let reader: string;
  /** Paths on the host. */
  let logs: string;
  let memory: string;
  let secret: string;

  const step = engineSuite(pooled, async (opened) => {
    host = opened;
    const { dir } = host.hearth;
    engine = await startCri(join(dir, "cri"), host.runtimePath);
    logs = join(dir, "logs");
    mkdirSync(logs);
    memory = join(dir, "volumes/kubernetes.io~empty-dir/memory");
    mkdirSync(memory, { recursive: true });
    mount({ source: "tmpfs", target: memory, type: "tmpfs", data: "size=2m,mode=777" });
    secret = join(dir, "volumes/kubernetes.io~secret/secret");
    mkdirSync(secret, { recursive: true });
    writeSecret("old");
    symlinkSync("..data/key", join(secret, "key"));
    return {
      ...engine,
      [Symbol.asyncDispose]: async () => {
        unmount(memory);
        await engine[Symbol.asyncDispose]();
      },
    };
  });

  /** As a kubelet updates secrets and config maps: a new directory, and a link that is swapped. */
  function writeSecret(value: string): void {
    mkdirSync(join(secret, value));
    writeFileSync(join(secret, value, "key"), value);
    symlinkSync(value, join(secret, "..data_tmp"));
    renameSync(join(secret, "..data_tmp"), join(secret, "..data"));
  }

  type Container = Exclude<MessageInitShape<typeof ContainerConfigSchema>, Message>;

  async function startContainer(name: string, command: string[], config: Container = {}): Promise<string> {
    const { containerId } = await engine.runtime.createContainer({
      podSandboxId,
      sandboxConfig,
      config: {
        metadata: { name },
        image: { image: TEST_IMAGE },
        command,
        logPath: `${name}.log`,
        ...config,
      },
    });
    await engine.runtime.startContainer({ containerId });
    return containerId;
  }

  async function exec(
    containerId: string,
    script: string,
  ): Promise<{ stdout: string; stderr: string; exitCode: number }> {
    const answer = await engine.runtime.execSync({ containerId, cmd: ["sh", "-c", script], timeout: 30n });
    const decoder = new TextDecoder();
    return {
      stdout: decoder.decode(answer.stdout),
      stderr: decoder.decode(answer.stderr),
      exitCode: answer.exitCode,
    };
  }

  const out = async (containerId: string, script: string): Promise<string> => (await exec(containerId, script)).stdout;
  const namespaces = (pid: NamespaceMode, targetId = "") => ({
    securityContext: { namespaceOptions: { pid, targetId } },
  });

  step(
    "RunPodSandbox: ready, with an address",
    async () => {
      sandboxConfig = {
        metadata: { name: "pod", uid: "1", namespace: "default" },
        hostname: "pod-host",
        logDirectory: logs,
        dnsConfig: { servers: ["192.0.2.53"], searches: ["hearth.test"] },
        linux: {
          cgroupParent: engine.cgroupParent,
          sysctls: { "net.ipv4.ip_unprivileged_port_start": "80" },
          resources: { cpuPeriod: 100_000n, cpuQuota: 200_000n, memoryLimitInBytes: 512n * MIB },
        },
      };
      ({ podSandboxId } = await engine.runtime.runPodSandbox({ config: sandboxConfig, runtimeHandler: "hearth" }));
      const { status } = await engine.runtime.podSandboxStatus({ podSandboxId });
      expect(status).toMatchObject({ state: PodSandboxState.SANDBOX_READY });
      address = status?.network?.ip ?? "";
      expect(address).toStartWith("10.99.0.");
    },
    { keeps: true },
  );

  test("two containers in the one VM", async () => {
    const mounts = [{ containerPath: "/volume", hostPath: memory }];
    server = await startContainer(
      "server",
      ["sh", "-c", "echo started; echo trouble >&2; echo shared >/volume/file; exec httpd -f -h /volume"],
      {
        mounts: [...mounts, { containerPath: "/secret", hostPath: secret, readonly: true }],
        envs: [{ key: "GREETING", value: "hello" }],
        linux: {
          resources: { memoryLimitInBytes: 100n * MIB, cpuPeriod: 100_000n, cpuQuota: 50_000n },
          ...namespaces(NamespaceMode.CONTAINER),
        },
      },
    );
    reader = await startContainer("reader", ["cat"], {
      mounts,
      stdin: true,
      linux: namespaces(NamespaceMode.CONTAINER),
    });
    expect(host.usedVms().length).toBeLessThanOrEqual(1);
    const { status } = await engine.runtime.containerStatus({ containerId: reader });
    expect(status?.state).toBe(ContainerState.CONTAINER_RUNNING);
  });

  test("ExecSync: the guest's kernel, streams apart, exact exit status", async () => {
    expect(await exec(server, 'uname -r; echo "$GREETING" >&2; exit 42')).toEqual({
      stdout: `${host.kernel}\n`,
      stderr: "hello\n",
      exitCode: 42,
    });
  });

  test("containers of the pod share host name, IPC, network, /dev/shm and the VM's size, not processes", async () => {
    expect(await out(reader, "hostname; cat /etc/hostname")).toBe("pod-host\npod-host\n");
    expect(await out(server, "echo over here >/dev/shm/note; readlink /proc/self/ns/ipc")).toBe(
      await out(reader, "readlink /proc/self/ns/ipc"),
    );
    expect(await out(reader, "cat /dev/shm/note; df -k /dev/shm | awk '{print $2}' | tail -1")).toBe(
      "over here\n65536\n",
    );
    expect(await out(reader, "wget -q -O - http://127.0.0.1/file")).toBe("shared\n");
    expect(await out(reader, "nproc; cat /proc/sys/net/ipv4/ip_unprivileged_port_start")).toBe("2\n80\n");
    expect(await out(reader, "ps | grep -c '[h]ttpd'")).toBe("0\n");
  });

  test("a container that targets another one's processes sees them", async () => {
    const containerId = await startContainer("debugger", ["sleep", "1000"], {
      linux: namespaces(NamespaceMode.TARGET, server),
    });
    expect(await out(containerId, "ps | grep -c '[h]ttpd'")).toBe("1\n");
    await engine.runtime.stopContainer({ containerId, timeout: 0n });
    await engine.runtime.removeContainer({ containerId });
  });

  test("network: from outside, to the gateway over IPv4 and IPv6, name servers", async () => {
    const wget = ["busybox", "wget", "-q", "-O", "-", `http://${address}/file`];
    expect((await runProgram(engine.netns.inside(wget))).stdout).toBe("shared\n");
    expect(await out(reader, `ping -c 1 -W 5 ${POD_GATEWAY}`)).toContain("1 packets received");
    const ping6 = () => out(reader, `ping -6 -c 1 -W 5 ${POD_GATEWAY6}`);
    expect(await until(ping6, (seen) => seen.includes("1 packets received"))).toContain("1 packets received");
    expect(await out(reader, "cat /etc/resolv.conf")).toBe("search hearth.test\nnameserver 192.0.2.53\n");
  });

  test("a volume in memory is the pod's, in the guest, of its size", async () => {
    expect(await out(reader, "cat /volume/file; df -k /volume | awk '{print $2}' | tail -1")).toBe("shared\n2048\n");
  });

  test("a secret is updated by the swap of a link", async () => {
    expect(await out(server, "cat /secret/key")).toBe("old");
    writeSecret("new");
    expect(
      await until(
        () => out(server, "cat /secret/key"),
        (seen) => seen === "new",
      ),
    ).toBe("new");
  });

  test("Exec with a terminal, over the stream server", async () => {
    const cmd = [
      "sh",
      "-c",
      'read word; until [ "$(stty size)" = "30 100" ]; do sleep 0.1; done; echo "<$word>"; exit 9',
    ];
    const { url } = await engine.runtime.exec({ containerId: server, cmd, tty: true, stdin: true, stdout: true });
    const { status, stdout } = await engine.stream(url, { stdin: "typed\n", size: "100x30" });
    expect({ status, stdout }).toEqual({ status: 9, stdout: expect.stringContaining("<typed>") });
  });

  test("Exec without a terminal: streams apart, exit status", async () => {
    const cmd = ["sh", "-c", "head -n 1; echo err >&2; exit 3"];
    const wanted = { containerId: server, cmd, stdin: true, stdout: true, stderr: true };
    const { url } = await engine.runtime.exec(wanted);
    const { status, stdout, stderr } = await engine.stream(url, { stdin: "line\n" });
    expect({ status, stdout, stderr }).toEqual({ status: 3, stdout: "line\n", stderr: "err\n" });
  });

  test("logs", async () => {
    const log = () => readFileSync(join(logs, "server.log"), "utf8");
    const seen = await until(
      async () => log(),
      (text) => text.split("\n").length > 2,
    );
    expect(seen).toMatch(/^\S+ stdout F started$/m);
    expect(seen).toMatch(/^\S+ stderr F trouble$/m);
  });

  test("stats", async () => {
    const { stats } = await engine.runtime.containerStats({ containerId: server });
    expect(stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n).toBeGreaterThan(0n);
    expect(stats?.memory?.workingSetBytes?.value ?? 0n).toBeGreaterThan(0n);
  });

  test("UpdateContainerResources", async () => {
    expect(await out(server, "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max")).toBe("104857600\n50000 100000\n");
    const linux = { memoryLimitInBytes: 120n * MIB, cpuPeriod: 100_000n, cpuQuota: 70_000n };
    await engine.runtime.updateContainerResources({ containerId: server, linux });
    expect(await out(server, "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max")).toBe("125829120\n70000 100000\n");
  });

  test("Attach: what is written reaches the container and its log", async () => {
    const { url } = await engine.runtime.attach({ containerId: reader, stdin: true, stdout: true, stderr: true });
    const { stdout } = await engine.stream(url, { stdin: "attached\n", until: "attached\n" });
    expect(stdout).toBe("attached\n");
    const seen = await until(
      async () => readFileSync(join(logs, "reader.log"), "utf8"),
      (text) => text !== "",
    );
    expect(seen).toMatch(/stdout F attached$/m);
  });

  test("PortForward: several at once, IPv4 and IPv6, all of what is sent; a port on which nobody listens ends at once", async () => {
    await exec(server, "dd if=/dev/urandom of=/volume/big bs=1k count=1000; httpd -p [::1]:8081 -h /volume");
    const get = async (port: number, file: string): Promise<string> => {
      const answer = await engine.forward(podSandboxId, port, `GET /${file} HTTP/1.0\r\n\r\n`);
      const body = answer.bytes.subarray(Buffer.from(answer.bytes).indexOf("\r\n\r\n") + 4);
      return `${createHash("sha256").update(body).digest("hex")}\n`;
    };
    const sums = await out(server, "cd /volume; sha256sum file big | cut -d ' ' -f 1");
    const [file = "", big = ""] = sums.split(/(?<=\n)/);
    const wanted: [number, string][] = [
      [80, "file"],
      [8081, "file"],
      [80, "big"],
      [8081, "big"],
    ];
    expect(await Promise.all(wanted.map(([port, name]) => get(port, name)))).toEqual([file, file, big, big]);
    expect((await engine.forward(podSandboxId, 82, "anybody?")).stdout).toBe("");
  });

  test("a container whose memory runs out: its status says so", async () => {
    const linux = { resources: { memoryLimitInBytes: 40n * MIB } };
    const containerId = await startContainer("big", ["tail", "/dev/zero"], { linux });
    const look = async () => (await engine.runtime.containerStatus({ containerId })).status;
    const status = await until(look, (seen) => seen?.state === ContainerState.CONTAINER_EXITED);
    expect(status).toMatchObject({ exitCode: 137, reason: "OOMKilled" });
    await engine.runtime.removeContainer({ containerId });
  });

  test("StopContainer, ContainerStatus, RemoveContainer; the other one lives on", async () => {
    await engine.runtime.stopContainer({ containerId: server, timeout: 0n });
    const { status } = await engine.runtime.containerStatus({ containerId: server });
    expect(status).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 137 });
    await engine.runtime.removeContainer({ containerId: server });
    expect(await out(reader, "cat /volume/file")).toBe("shared\n");
  });

  step("StopPodSandbox and RemovePodSandbox: nothing is left", async () => {
    await engine.runtime.stopPodSandbox({ podSandboxId });
    const { status } = await engine.runtime.podSandboxStatus({ podSandboxId });
    expect(status?.state).toBe(PodSandboxState.SANDBOX_NOTREADY);
    await engine.runtime.removePodSandbox({ podSandboxId });
  });

  test("every VM came from where it should", async () => {
    expect(await host.poolMisses()).toBe(0);
  });
});
