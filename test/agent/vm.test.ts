/** The agent where it belongs: in a booted guest, over the virtio-serial port, with cgroups, hot-plug and reconnects. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { chmodSync, copyFileSync, mkdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { connectAgent } from "../../src/agent/client/client.ts";
import { AGENT_RECONNECT_PAUSE_MS, TRANSLATION_BUFFER_FILLS_MAX } from "../../src/limits.ts";
import { encodeFrame, FRAME_REQUEST } from "../../src/rpc/ttrpc/frame.ts";
import { makeRoomForVcpus } from "../../src/sandbox/resources.ts";
import { openTap } from "../../src/sys/tap.ts";
import { connectUnix } from "../../src/sys/unix-socket.ts";
import { rejection } from "../harness/rejection.ts";
import { readAll } from "./host-agent.ts";
import { bootVmAgent, GUEST_SHARED, type VmAgent } from "./vm-agent.ts";

const GUEST_DIR = join(import.meta.dir, "../../build/guest");
const APPLETS = "sh cat echo sleep true head tail grep date wc stty ls nproc dd seq ip".split(" ");
const MAC = "52:54:00:77:88:99";

let vm: VmAgent;
beforeAll(async () => {
  vm = await bootVmAgent(GUEST_DIR, { maxVcpus: 2 });
  const root = join(vm.paths.shared, "root");
  for (const name of ["bin", "proc", "dev", "sys", "tmp"]) mkdirSync(join(root, name), { recursive: true });
  copyFileSync("/bin/busybox", join(root, "bin/busybox"));
  chmodSync(join(root, "bin/busybox"), 0o755);
  for (const applet of APPLETS) symlinkSync("busybox", join(root, "bin", applet));
}, 120_000);
afterAll(async () => {
  await vm[Symbol.asyncDispose]();
});

const bytes = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
const processOf = (args: readonly string[]) => ({ args, cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 } });

let serial = 0;

interface Changes {
  readonly resources?: object;
  readonly mounts?: readonly object[];
  readonly terminal?: boolean;
  readonly storages?: readonly object[];
  readonly devices?: readonly object[];
  readonly linuxDevices?: readonly object[];
  /** Sees the guest's processes. */
  readonly sharedPids?: boolean;
}

async function run(args: readonly string[], changes: Changes = {}) {
  const id = `v${++serial}`;
  const ociJson = bytes({
    ociVersion: "1.0.2",
    process: { ...processOf(args), terminal: changes.terminal === true },
    root: { path: `${GUEST_SHARED}/root` },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs" },
      { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["newinstance", "ptmxmode=0666"] },
      { destination: "/sys", type: "sysfs", source: "sysfs", options: ["ro"] },
      { destination: "/sys/fs/cgroup", type: "bind", source: "/sys/fs/cgroup", options: ["rbind", "ro"] },
      ...(changes.mounts ?? []),
    ],
    linux: {
      cgroupsPath: `/hearth/${id}`,
      namespaces: [
        ...(changes.sharedPids === true ? [] : [{ type: "pid" }]),
        ...[{ type: "mount" }, { type: "ipc" }, { type: "uts" }],
      ],
      resources: changes.resources ?? {},
      ...(changes.linuxDevices === undefined ? {} : { devices: changes.linuxDevices }),
    },
  });
  const api = vm.client.agent;
  const { storages = [], devices = [] } = changes;
  await api.createContainer({ containerId: id, execId: id, ociJson, storages: [...storages], devices: [...devices] });
  await api.startContainer({ containerId: id });
  return {
    id,
    ids: { containerId: id, execId: id },
    cgroup: `/sys/fs/cgroup/hearth/${id}`,
    async [Symbol.asyncDispose]() {
      await vm.client.agent.removeContainer({ containerId: id, timeout: 5 });
    },
  };
}

/** Runs a program in a container; returns its output. */
async function output(containerId: string, args: readonly string[]): Promise<string> {
  const execId = `e${++serial}`;
  await vm.client.agent.execProcess({ containerId, execId, processJson: bytes(processOf(args)) });
  return (await readAll(vm.client, containerId, execId)).toString();
}

describe("cgroups", () => {
  test("limits are those of the configuration, then those of an update", async () => {
    await using c = await run(["sleep", "1000"], {
      resources: { memory: { limit: 50_000_000 }, pids: { limit: 20 }, cpu: { quota: 50_000, period: 100_000 } },
    });
    const read = (file: string): Promise<string> => output(c.id, ["cat", `${c.cgroup}/${file}`]);
    expect(await read("pids.max")).toBe("20\n");
    expect(await read("cpu.max")).toBe("50000 100000\n");
    expect(Number(await read("memory.max"))).toBeCloseTo(50_000_000, -4);
    await vm.client.agent.updateContainer({
      containerId: c.id,
      resourcesJson: bytes({ pids: { limit: 30 }, memory: { limit: 60_000_000 } }),
    });
    expect(await read("pids.max")).toBe("30\n");
    await vm.client.agent.updateContainer({ containerId: c.id, resources: { Pids: { Limit: 40n } } });
    expect(await read("pids.max")).toBe("40\n");
    expect(Number(await read("memory.max"))).toBeCloseTo(60_000_000, -4);
  }, 30_000);

  test("statistics", async () => {
    await using c = await run(["sh", "-c", "seq 1 20000 | wc -l; read x"], { resources: { pids: { limit: 20 } } });
    await vm.client.agent.readStdout({ ...c.ids, len: 100 });
    const { cgroupStats } = await vm.client.agent.statsContainer({ containerId: c.id });
    expect(cgroupStats?.pidsStats).toMatchObject({ current: 1n, limit: 20n });
    expect(cgroupStats?.cpuStats?.cpuUsage?.totalUsage).toBeGreaterThan(1_000_000n);
    expect(cgroupStats?.memoryStats?.usage?.usage).toBeGreaterThan(4096n);
    expect(cgroupStats?.memoryStats?.stats["anon"]).toBeGreaterThan(0n);
  });

  test("a paused container stands still, takes no exec, and goes on", async () => {
    await using c = await run(["sh", "-c", "while true; do read x; echo $x; done"]);
    const api = vm.client.agent;
    await api.pauseContainer({ containerId: c.id });
    await api.writeStdin({ ...c.ids, data: Buffer.from("hello\n") });
    const reading = api.readStdout({ ...c.ids, len: 100 });
    expect(await rejection(output(c.id, ["true"]))).toMatchObject({
      code: "failed-precondition",
      message: expect.stringContaining("paused"),
    });
    expect(await Promise.race([reading.then(() => "read"), output2()])).toBe("other");
    await api.resumeContainer({ containerId: c.id });
    expect(Buffer.from((await reading).data).toString()).toBe("hello\n");

    async function output2(): Promise<string> {
      await using _other = await run(["true"]);
      return "other";
    }
  });

  test("a paused container is removed", async () => {
    const c = await run(["sleep", "1000"]);
    await vm.client.agent.pauseContainer({ containerId: c.id });
    await c[Symbol.asyncDispose]();
  });

  test("every process is signalled, and nothing of the cgroup is left after the removal", async () => {
    const c = await run(["sh", "-c", "sleep 1000 & sleep 1000 & echo ready; wait"]);
    const api = vm.client.agent;
    await api.readStdout({ ...c.ids, len: 100 });
    const { processList } = await api.listProcesses({ containerId: c.id, format: "json" });
    expect(JSON.parse(Buffer.from(processList).toString()).length).toBe(3);
    await api.signalProcess({ containerId: c.id, execId: "", signal: 9 });
    expect((await api.waitProcess(c.ids)).status).toBe(137);
    await c[Symbol.asyncDispose]();
    await using other = await run(["sleep", "1000"]);
    expect(await output(other.id, ["ls", "/sys/fs/cgroup/hearth"])).not.toContain(`${c.id}\n`);
  });

  test("a process lost to the OOM killer is told of, also to who asks later", async () => {
    const api = vm.client.agent;
    const waiting = api.getOOMEvent({});
    for (const asked of [true, false]) {
      await using c = await run(["tail", "/dev/zero"], {
        resources: { memory: { limit: 20_000_000, swap: 20_000_000 } },
      });
      expect((await api.waitProcess(c.ids)).status).toBe(137);
      expect((await (asked ? waiting : api.getOOMEvent({}))).containerId).toBe(c.id);
    }
  }, 30_000);
});

describe("streams", () => {
  test("several MiB both ways, exact", async () => {
    await using c = await run(["cat"]);
    const sent = randomBytes(4 * 1024 * 1024 + 13);
    const received = readAll(vm.client, c.id, c.id);
    const startedAt = performance.now();
    for (let at = 0; at < sent.length; at += 256 * 1024) {
      await vm.client.agent.writeStdin({ ...c.ids, data: sent.subarray(at, at + 256 * 1024) });
    }
    await vm.client.agent.closeStdin(c.ids);
    const digest = (data: Uint8Array): string => createHash("sha256").update(data).digest("hex");
    expect(digest(await received)).toBe(digest(sent));
    console.log(`      4 MiB through the guest and back: ${Math.round(performance.now() - startedAt)} ms`);
  }, 60_000);

  test("a terminal", async () => {
    await using c = await run(["sh", "-c", "read x; stty size"], { terminal: true });
    await vm.client.agent.ttyWinResize({ ...c.ids, row: 33, column: 99 });
    await vm.client.agent.writeStdin({ ...c.ids, data: Buffer.from("x\n") });
    expect((await readAll(vm.client, c.id, c.id)).toString()).toBe("x\r\n33 99\r\n");
  });
});

describe("the guest", () => {
  test("a vCPU and memory that were plugged come online, though the emulator had no room for one", async () => {
    await using c = await run(["sleep", "1000"]);
    const memory = async (): Promise<number> =>
      Number(/MemTotal: +(\d+)/.exec(await output(c.id, ["cat", "/proc/meminfo"]))?.[1]);
    const before = await memory();
    for (let fills = 0; (await vm.hypervisor.vcpuRoom()) > 0; fills++) {
      expect(fills).toBeLessThan(TRANSLATION_BUFFER_FILLS_MAX);
      await vm.client.agent.fillTranslationBuffer({});
    }
    expect(await rejection(vm.hypervisor.addVcpus(1))).toMatchObject({ code: "resource-exhausted" });
    await makeRoomForVcpus({ hypervisor: vm.hypervisor, agent: vm.client }, 1, AbortSignal.timeout(30_000));
    await vm.hypervisor.addVcpus(1);
    await vm.client.agent.onlineCPUMem({ wait: true, nbCpus: 1, cpuOnly: true });
    expect(await output(c.id, ["nproc"])).toBe("2\n");
    await vm.hypervisor.addMemory(256);
    await vm.client.agent.onlineCPUMem({ wait: true, nbCpus: 0 });
    expect((await memory()) - before).toBeGreaterThan(250 * 1024);
  }, 60_000);

  test("an interface that was plugged is found and configured", async () => {
    const tap = openTap(`hag${process.pid}`);
    try {
      await vm.hypervisor.addDevice({ kind: "nic", id: "nic0", tapFds: [tap.fd], mac: MAC });
      const answer = await vm.client.agent.updateInterface({
        interface: { name: "eth0", hwAddr: MAC, mtu: 1450n, IPAddresses: [{ address: "10.3.2.1", mask: "24" }] },
      });
      expect(answer).toMatchObject({ name: "eth0", mtu: 1450n });
      await vm.client.agent.updateRoutes({
        routes: {
          Routes: [
            { gateway: "10.3.2.254", device: "eth0" },
            { dest: "10.3.2.0/24", device: "eth0", scope: 253 },
          ],
        },
      });
      await using c = await run(["sleep", "1000"]);
      expect(await output(c.id, ["ip", "route"])).toContain("default via 10.3.2.254 dev eth0");
    } finally {
      tap.close();
    }
  }, 60_000);

  test("clock, random pool, details", async () => {
    const api = vm.client.agent;
    await api.reseedRandomDev({ data: randomBytes(64) });
    await api.setGuestDateTime({ Sec: 1_000_000_000n, Usec: 0n });
    await using c = await run(["date", "+%s"]);
    expect(Number((await readAll(vm.client, c.id, c.id)).toString())).toBeWithin(1_000_000_000, 1_000_000_100);
    await api.setGuestDateTime({ Sec: BigInt(Math.floor(Date.now() / 1000)), Usec: 0n });
    const details = await api.getGuestDetails({ memBlockSize: true, memHotplugProbe: true });
    expect(details.memBlockSizeBytes).toBe(128n * 1024n * 1024n);
    expect(details.agentDetails).toMatchObject({ initDaemon: false, supportsSeccomp: true });
    expect(await rejection(api.reseedRandomDev({}))).toMatchObject({ code: "invalid-argument" });
  });

  test("the OOM killer spares the agent and nobody else", async () => {
    await using c = await run(["sleep", "1000"]);
    expect(await output(c.id, ["cat", "/proc/1/oom_score_adj", "/proc/self/oom_score_adj"])).toBe("0\n0\n");
    await using guest = await run(["sh", "-c", "cat /proc/*/oom_score_adj"], { sharedPids: true });
    expect((await readAll(vm.client, guest.id, guest.id)).toString().split("\n")).toContain("-999");
  });

  test("a file is copied, and a container sees it", async () => {
    const content = randomBytes(1000);
    const path = "/run/hearth/files/secret";
    await vm.client.agent.copyFile({ path, fileSize: 1000n, data: content, fileMode: 0o100644, dirMode: 0o755 });
    await using c = await run(["cat", "/secret"], {
      mounts: [{ destination: "/secret", type: "bind", source: path, options: ["bind", "ro"] }],
    });
    expect(Buffer.compare(await readAll(vm.client, c.id, c.id), content)).toBe(0);
  });
});

describe("storages", () => {
  const storage = (changes: object) => ({ driver: "", source: "", fstype: "", options: [], ...changes });

  test("of every kind are mounted, seen by the container, and gone with it", async () => {
    mkdirSync(join(vm.paths.shared, "lower"), { recursive: true });
    writeFileSync(join(vm.paths.shared, "lower/file"), "lower");
    const at = (name: string): string => `/run/hearth/storages/${name}`;
    const c = await run(["sleep", "1000"], {
      storages: [
        storage({ driver: "ephemeral", fstype: "tmpfs", options: ["size=1m", "mode=711"], mountPoint: at("tmp") }),
        storage({ driver: "local", options: ["mode=0750"], mountPoint: at("local") }),
        storage({ driver: "local", mountPoint: at("up") }),
        storage({ driver: "local", mountPoint: at("work") }),
        storage({
          driver: "overlayfs",
          options: [`lowerdir=${GUEST_SHARED}/lower`, `upperdir=${at("up")}`, `workdir=${at("work")}`],
          mountPoint: at("overlay"),
        }),
      ],
      mounts: [{ destination: "/storages", type: "bind", source: "/run/hearth/storages", options: ["rbind"] }],
    });
    const mounts = await output(c.id, ["cat", "/proc/mounts"]);
    expect(mounts).toMatch(/^tmpfs \/storages\/tmp tmpfs rw,relatime,size=1024k,mode=711/m);
    expect(await output(c.id, ["ls", "-ld", "/storages/local"])).toStartWith("drwxr-x---");
    expect(await output(c.id, ["cat", "/storages/overlay/file"])).toBe("lower");
    await c[Symbol.asyncDispose]();
    await using after = await run(["cat", "/proc/mounts"], {
      mounts: [{ destination: "/storages", type: "bind", source: "/run/hearth/storages", options: ["rbind"] }],
    });
    expect((await readAll(vm.client, after.id, after.id)).toString()).not.toMatch(/\/storages\/(?:tmp|overlay) /);
  });

  test("a bind mount of a file, read-only", async () => {
    writeFileSync(join(vm.paths.shared, "file"), "content");
    const mountPoint = "/run/hearth/bound/file";
    await using c = await run(["sh", "-c", "cat /file; grep bound /proc/1/mounts"], {
      storages: [storage({ driver: "bind", source: `${GUEST_SHARED}/file`, options: ["ro"], mountPoint })],
      mounts: [{ destination: "/file", type: "bind", source: mountPoint, options: ["bind", "ro"] }],
      sharedPids: true,
    });
    expect((await readAll(vm.client, c.id, c.id)).toString()).toStartWith(`contenthearthShared ${mountPoint} 9p ro,`);
  });

  test("a disk that was plugged, by its PCI path: as a storage, then as a device", async () => {
    const image = join(vm.paths.dir, "disk.img");
    writeFileSync(image, "");
    truncateSync(image, 16 * 1024 * 1024);
    execFileSync("mkfs.ext4", ["-q", "-F", "-L", "hearthdisk", image]);
    const { pciPath = "" } = await vm.hypervisor.addDevice({
      kind: "block",
      id: "disk0",
      path: image,
      readOnly: false,
      format: "raw",
    });
    const mountPoint = "/run/hearth/disk";
    {
      await using c = await run(["sh", "-c", "echo kept >/disk/file; cat /proc/mounts"], {
        storages: [storage({ driver: "blk", source: pciPath, fstype: "ext4", options: ["noatime"], mountPoint })],
        mounts: [{ destination: "/disk", type: "bind", source: mountPoint, options: ["rbind"] }],
      });
      expect((await readAll(vm.client, c.id, c.id)).toString()).toMatch(/^\/dev\/vd[a-z] \/disk ext4 rw,noatime/m);
    }
    await using c = await run(["dd", "if=/dev/thedisk", "bs=16", "skip=71", "count=2"], {
      devices: [{ id: pciPath, type: "blk", containerPath: "/dev/thedisk" }],
      linuxDevices: [{ path: "/dev/thedisk", type: "b", major: 7, minor: 99 }],
      resources: {
        devices: [
          { allow: false, access: "rwm" },
          { allow: true, type: "b", major: 7, minor: 99, access: "r" },
        ],
      },
    });
    expect((await readAll(vm.client, c.id, c.id)).toString()).toContain("hearthdisk");
  }, 60_000);

  test("one that cannot be mounted fails the container and takes the others away", async () => {
    const failed = await rejection(
      run(["true"], {
        storages: [
          storage({ driver: "ephemeral", fstype: "tmpfs", mountPoint: "/run/hearth/first" }),
          storage({ driver: "blk", source: "/dev/nope", fstype: "nofs", mountPoint: "nowhere" }),
        ],
      }),
    );
    expect(failed).toMatchObject({ code: "invalid-argument", message: expect.stringContaining("nowhere") });
    await using c = await run(["cat", "/proc/1/mounts"], { sharedPids: true });
    expect((await readAll(vm.client, c.id, c.id)).toString()).not.toContain("/run/hearth/first");
    expect(await rejection(run(["true"], { storages: [storage({ driver: "scsi", mountPoint: "/x" })] }))).toMatchObject(
      { code: "unimplemented" },
    );
  });
});

test("name servers, modules and the host's name are the guest's", async () => {
  await vm.client.agent.createSandbox({
    sandboxId: "t",
    hostname: "renamed",
    dns: ["192.0.2.1", "options ndots:2"],
    kernelModules: [{ name: "dummy", parameters: ["numdummies=2"] }],
  });
  await using c = await run(["sh", "-c", "cat /guest/resolv.conf; ls /sys/class/net"], {
    mounts: [{ destination: "/guest", type: "bind", source: "/run", options: ["rbind", "ro"] }],
  });
  const text = (await readAll(vm.client, c.id, c.id)).toString();
  expect(text).toStartWith("nameserver 192.0.2.1\noptions ndots:2\n");
  expect(text).toContain("dummy1");
  expect(await rejection(vm.client.agent.createSandbox({ guestHookPath: "/hooks" }))).toMatchObject({
    code: "unimplemented",
  });
});

describe("a client that goes and comes back", () => {
  /** As QEMU's socket takes one client, ours has to go first. */
  async function reconnect(between: () => Promise<void>): Promise<void> {
    await vm.client[Symbol.asyncDispose]();
    await between();
    vm.client = await connectAgent({ transport: "virtio-serial", socket: vm.paths.agentSocket }, { timeoutMs: 60_000 });
  }

  test("finds its containers as they were", async () => {
    await using c = await run(["sh", "-c", "read x; echo got $x; exit 9"]);
    const lost = rejection(vm.client.agent.waitProcess(c.ids));
    await reconnect(async () => {});
    expect(await lost).toMatchObject({ code: "cancelled" });
    await vm.client.agent.writeStdin({ ...c.ids, data: Buffer.from("it\n") });
    expect((await readAll(vm.client, c.id, c.id)).toString()).toBe("got it\n");
    expect((await vm.client.agent.waitProcess(c.ids)).status).toBe(9);
  });

  const half = encodeFrame(1, FRAME_REQUEST, 0, new Uint8Array(100_000)).subarray(0, 50_000);

  test.each([
    ["half a frame", half],
    ["random bytes", randomBytes(100_000)],
    ["the longest frame there is, begun", Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0, 5)],
  ])(
    "after %s",
    async (_name, junk) => {
      await reconnect(async () => {
        const stream = await connectUnix(vm.paths.agentSocket);
        await stream.write(junk);
        await Bun.sleep(AGENT_RECONNECT_PAUSE_MS);
        stream.close();
      });
      await using c = await run(["echo", "fine"]);
      expect((await readAll(vm.client, c.id, c.id)).toString()).toBe("fine\n");
    },
    60_000,
  );

  test("while the guest was paused, and could not see it go", async () => {
    await using c = await run(["sleep", "1000"]);
    await vm.hypervisor.pause();
    await vm.client[Symbol.asyncDispose]();
    const stream = await connectUnix(vm.paths.agentSocket);
    await stream.write(half.subarray(0, 5000));
    stream.close();
    const connecting = connectAgent(
      { transport: "virtio-serial", socket: vm.paths.agentSocket },
      { timeoutMs: 60_000 },
    );
    await vm.hypervisor.resume();
    vm.client = await connecting;
    expect(await output(c.id, ["echo", "still"])).toBe("still\n");
  }, 90_000);

  test("while a container floods it with output", async () => {
    await using c = await run(["sh", "-c", "while true; do dd if=/dev/zero bs=64k count=100 2>/dev/null; done"]);
    for (let index = 0; index < 20; index++) void rejection(vm.client.agent.readStdout({ ...c.ids, len: 0 }));
    await vm.client.health.check({});
    await reconnect(async () => {});
    expect((await vm.client.agent.readStdout({ ...c.ids, len: 0 })).data.length).toBeGreaterThan(0);
  }, 60_000);
});
