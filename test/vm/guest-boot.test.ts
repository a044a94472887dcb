/** What the booted guest is like, seen from a container that has entered the mount namespace of its PID 1. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { HearthError } from "../../src/errors.ts";
import type { HypervisorEnd } from "../../src/hypervisor/interface.ts";
import { launchQemu } from "../../src/hypervisor/qemu/launch.ts";
import { GUEST_FILES } from "../../src/paths.ts";
import { bootVmAgent, type VmAgent } from "../agent/vm-agent.ts";
import { scratch } from "../harness/scratch.ts";

const GUEST_DIR = join(import.meta.dir, "../../build/guest");
const TIMEOUT_MS = 60_000;
const CAPABILITIES = [
  "CAP_SYS_ADMIN",
  "CAP_SYS_CHROOT",
  "CAP_SYS_MODULE",
  "CAP_SYS_PTRACE",
  "CAP_NET_ADMIN",
  "CAP_KILL",
  "CAP_MKNOD",
  "CAP_DAC_OVERRIDE",
];

let vm: VmAgent;
let nextId = 1;

/** Output of a shell script run in the guest's own root. */
async function inGuest(script: string): Promise<string> {
  const containerId = `probe${nextId++}`;
  const id = { containerId, execId: containerId };
  const caps = { bounding: CAPABILITIES, effective: CAPABILITIES, permitted: CAPABILITIES };
  const spec = {
    ociVersion: "1.0.2",
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: ["/bin/busybox", "nsenter", "-t", "1", "-m", "/bin/sh", "-c", `{ ${script}; } 2>&1`],
      env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
      cwd: "/",
      capabilities: caps,
    },
    root: { path: "/usr/share/hearth/rehearsal/rootfs", readonly: true },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["mode=755"] },
    ],
    linux: { cgroupsPath: `/hearth/${containerId}`, namespaces: [{ type: "mount" }] },
  };
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const { agent } = vm.client;
  await agent.createContainer({ ...id, ociJson: new TextEncoder().encode(JSON.stringify(spec)) }, { signal });
  await agent.startContainer({ containerId }, { signal });
  const chunks: Uint8Array[] = [];
  try {
    for (;;) chunks.push((await agent.readStdout({ ...id, len: 65536 }, { signal })).data);
  } catch (thrown) {
    if (!(thrown instanceof HearthError && thrown.code === "out-of-range")) throw thrown; // the end of the stream
  }
  await agent.waitProcess(id, { signal });
  await agent.removeContainer({ containerId, timeout: 10 }, { signal });
  return Buffer.concat(chunks).toString("utf8").trim();
}

beforeAll(async () => {
  vm = await bootVmAgent(GUEST_DIR);
}, TIMEOUT_MS);
afterAll(async () => {
  await vm[Symbol.asyncDispose]();
}, TIMEOUT_MS);

describe("guest", () => {
  test("PID 1 is busybox init, never the agent", async () => {
    expect(await inGuest("readlink /proc/1/exe; cat /proc/1/comm")).toBe("/usr/bin/busybox\ninit");
  });

  test("has the root image mapped read-only, and writable places beside it", async () => {
    const mounts = await inGuest("cat /proc/1/mounts");
    expect(mounts).toMatch(/^\/dev\/pmem0 \/ erofs ro,.*dax=always/m);
    for (const place of ["/run", "/tmp", "/var", "/dev/shm"]) expect(mounts).toMatch(new RegExp(` ${place} tmpfs rw`));
    expect(await inGuest("touch /etc/x; touch /run/x && echo written")).toBe(
      "touch: /etc/x: Read-only file system\nwritten",
    );
  });

  test("writing to the image's device changes neither the guest nor the file on the host", async () => {
    const head = readFileSync(join(GUEST_DIR, "rootfs.erofs")).subarray(0, 4096);
    await inGuest("head -c 4096 /dev/zero >/dev/pmem0; sync; echo 3 >/proc/sys/vm/drop_caches");
    expect(readFileSync(join(GUEST_DIR, "rootfs.erofs")).subarray(0, 4096).equals(head)).toBe(true);
    expect(await inGuest("cat /etc/group | head -1")).toBe("root:x:0:");
  });

  test("has every cgroup controller that containers use, in version 2", async () => {
    const enabled = (await inGuest("cat /sys/fs/cgroup/cgroup.subtree_control")).split(" ");
    for (const controller of ["cpuset", "cpu", "io", "memory", "pids", "hugetlb"])
      expect(enabled).toContain(controller);
  });

  test("has loopback up and no identity of its own", async () => {
    expect(await inGuest("ip -o link show lo")).toContain("LOOPBACK,UP,LOWER_UP");
    expect(await inGuest("cat /etc/machine-id")).toBe("");
  });

  test.each([
    [
      "overlay",
      "mkdir -p /run/o/u /run/o/w /run/o/m && mount -t overlay -o lowerdir=/etc,upperdir=/run/o/u,workdir=/run/o/w none /run/o/m && umount /run/o/m",
    ],
    [
      "veth and bridge",
      "ip link add t0 type veth peer name t1 && ip link add tb type bridge && ip link del t0 && ip link del tb",
    ],
    ["dummy and macvlan", "ip link add td type dummy && ip link add link td name tm type macvlan && ip link del td"],
    ["vsock, by its protocol number", "modprobe net-pf-40 && grep -q ^vsock /proc/modules"],
    [
      "connection tracking and nat",
      "modprobe -a nf_conntrack nf_nat nft_chain_nat ip_tables iptable_nat && grep -q ^iptable_nat /proc/modules",
    ],
    ["ext4 in a file", "modprobe -a loop ext4 && grep -q ext4 /proc/filesystems"],
    ["traffic control", "modprobe -a sch_ingress act_mirred cls_u32 sch_netem && grep -q ^sch_netem /proc/modules"],
  ])(
    "finds its modules for %s",
    async (_, script) => {
      expect(await inGuest(`${script} && echo works`)).toBe("works");
    },
    TIMEOUT_MS,
  );

  test("containers have address randomisation, though crun and the agent run without when emulated", async () => {
    expect(await inGuest("cat /proc/self/personality")).toBe("00000000");
    expect(await inGuest("cat /proc/$(pidof hearth-agent)/personality")).toBe("00040000");
    expect(await inGuest("cat /proc/sys/kernel/randomize_va_space")).toBe("2");
  });

  test("orphans are reaped", async () => {
    await inGuest("(sleep 0 & sleep 0 &) ; true");
    expect(await inGuest("cat /proc/[0-9]*/stat | awk '$3 == \"Z\"' | wc -l")).toBe("0");
  });

  // The last one: it ends the VM.
  test(
    "without its agent it powers off",
    async () => {
      const ended: Promise<HypervisorEnd> = vm.hypervisor.ended;
      inGuest("kill -9 $(pidof hearth-agent)").catch(() => undefined);
      expect(await ended).toMatchObject({ exitCode: 0, signal: null });
    },
    TIMEOUT_MS,
  );
});

test(
  "a root that cannot be mounted is named on the console, and the VM ends",
  async () => {
    using dir = scratch();
    await using vm = await launchQemu({
      vmId: "noroot",
      qemuPath: "/usr/bin/qemu-system-x86_64",
      accel: "tcg",
      machine: "q35",
      kernel: join(GUEST_DIR, GUEST_FILES.kernel),
      initrd: join(GUEST_DIR, GUEST_FILES.initrd),
      image: join(GUEST_DIR, GUEST_FILES.image),
      kernelParams: ["rootflags=nosuchflag"],
      vcpus: 1,
      maxVcpus: 1,
      memoryMib: 256,
      maxMemoryMib: 256,
      sharedMemory: false,
      qmpSocket: dir.path("qmp"),
      agentSocket: dir.path("agent"),
      consoleLog: dir.path("console"),
      qemuLog: dir.path("qemu"),
      devices: [],
      seccomp: true,
    });
    const end = await vm.ended;
    expect(end.exitCode).toBe(0);
    expect(end.logTail).toContain("hearth: mount failed");
  },
  TIMEOUT_MS,
);
