/** What a configuration asks for is what a container in a real VM gets, over both ways of sharing files. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { SHARE_READ_AHEAD_KIB } from "../../src/limits.ts";
import { measureTscKhz } from "../../src/sys/tsc.ts";
import { type Hearth, type OpenHearth, openHearth, withHearth } from "../harness/hearth.ts";

const VM_TEST_TIMEOUT_MS = 120_000;
const RATE_ERROR_MAX = 100e-6;

describe.each(["virtio-fs", "virtio-9p"] as const)("over %s", (sharedFs) => {
  let opened: OpenHearth;
  let hearth: Hearth;
  beforeAll(() => {
    opened = openHearth({ config: { hypervisor: { shared_fs: sharedFs } } });
    hearth = opened.hearth;
  });
  afterAll(async () => {
    await opened.close();
  });

  /** Runs a shell script in a container of its own, and returns what it wrote, line by line. */
  async function inContainer(id: string, script: string, config: Record<string, unknown> = {}): Promise<string[]> {
    const bundle = await hearth.bundle({ args: ["sh", "-c", script], config });
    const { stdout, stderr, status } = await hearth.runtime(["run", "--bundle", bundle, id]);
    if (status !== 0) process.stderr.write(opened.describe());
    expect({ status, stderr: withoutKvmWarning(stderr) }).toEqual({ status: 0, stderr: "" });
    return stdout.trimEnd().split("\n");
  }

  test(
    "the guest knows the rate of the host's time stamp counter, which is its clock",
    async () => {
      const hostMhz = (await measureTscKhz(100)) / 1000;
      const [guestMhz] = await inContainer("rate", "awk '/cpu MHz/ {print $4; exit}' /proc/cpuinfo");
      // Told of it. What it finds out itself is off by ten times as much, or by as much again as it is.
      expect(Math.abs(Number(guestMhz) / hostMhz - 1)).toBeLessThan(RATE_ERROR_MAX);
    },
    VM_TEST_TIMEOUT_MS,
  );

  test(
    "process, file systems, limits",
    async () => {
      const script = `
        echo "user $(id -u):$(id -g) $(id -G)"; echo "cwd $(pwd)"; echo "env $GREETING"; echo "host $(hostname)"
        grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | tr '\\t' ' '
        echo "nofile $(ulimit -n)"; echo "pids $(ls -d /proc/[0-9]* | wc -l)"
        touch /x 2>/dev/null && echo "root writable" || echo "root read-only"
        echo 1 2>/dev/null >/proc/sys/kernel/panic && echo "sysctl writable" || echo "sysctl read-only"
        echo "masked $(wc -c </proc/kcore)"
        echo tmp >/scratch/file && echo "tmpfs $(cat /scratch/file) $(df -k /scratch | tail -1 | awk '{print $2}')"
        echo "shm $(df /dev/shm | tail -1 | awk '{print $1}')"
        for d in null zero full random urandom tty ptmx fuse; do [ -c /dev/$d ] || [ -L /dev/$d ] || echo "no $d"; done
        echo "net $(ls /sys/class/net | tr '\\n' ' ')"
        echo "cgroup $(cat /proc/self/cgroup)"
        echo "memory $(cat /sys/fs/cgroup/memory.max) pids $(cat /sys/fs/cgroup/pids.max)"
        echo "oom $(cat /proc/self/oom_score_adj)"
        mkdir /scratch/m 2>/dev/null; chroot / true 2>/dev/null && echo "chroot allowed" || echo "chroot denied"
        unshare -m true 2>/dev/null; echo "done"`;
      const lines = await inContainer("all", script, {
        process: {
          user: { uid: 1000, gid: 50, additionalGids: [60, 70] },
          cwd: "/tmp",
          env: ["PATH=/bin", "GREETING=hello"],
          rlimits: [{ type: "RLIMIT_NOFILE", hard: 333, soft: 222 }],
          capabilities: { bounding: ["CAP_KILL"], effective: [], permitted: [] },
          noNewPrivileges: true,
          oomScoreAdj: 77,
        },
        root: { path: "rootfs", readonly: true },
        hostname: "box",
        mounts: [
          { destination: "/proc", type: "proc", source: "proc" },
          { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755", "size=65536k"] },
          { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["newinstance", "ptmxmode=0666"] },
          { destination: "/dev/shm", type: "tmpfs", source: "shm", options: ["mode=1777", "size=1024k"] },
          { destination: "/sys", type: "sysfs", source: "sysfs", options: ["ro"] },
          { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["ro"] },
          { destination: "/scratch", type: "tmpfs", source: "tmpfs", options: ["mode=1777", "size=2048k"] },
        ],
        linux: {
          namespaces: ["pid", "network", "ipc", "uts", "mount", "cgroup"].map((type) => ({ type })),
          devices: [{ path: "/dev/fuse", type: "c", major: 10, minor: 229, fileMode: 0o666, uid: 0, gid: 0 }],
          resources: { memory: { limit: 64 * 1024 * 1024 }, pids: { limit: 33 } },
          seccomp: {
            defaultAction: "SCMP_ACT_ALLOW",
            architectures: ["SCMP_ARCH_X86_64"],
            syscalls: [{ names: ["chroot"], action: "SCMP_ACT_ERRNO" }],
          },
        },
      });
      expect(lines).toEqual([
        "user 1000:50 50 60 70",
        "cwd /tmp",
        "env hello",
        "host box",
        "CapEff: 0000000000000000",
        "CapBnd: 0000000000000020",
        "NoNewPrivs: 1",
        "Seccomp: 2",
        "nofile 222",
        expect.stringMatching(/^pids [1-5]$/),
        "root read-only",
        "sysctl read-only",
        "masked 0",
        "tmpfs tmp 2048",
        "shm shm",
        "net lo ",
        "cgroup 0::/",
        `memory ${64 * 1024 * 1024} pids 33`,
        "oom 77",
        "chroot denied",
        "done",
      ]);
    },
    VM_TEST_TIMEOUT_MS,
  );

  test(
    "files: the rootfs and bind mounts are the host's, both ways, read-only where asked",
    async () => {
      const shared = join(hearth.dir, "shared");
      const secret = join(hearth.dir, "secret");
      mkdirSync(shared, { recursive: true });
      writeFileSync(join(shared, "from-host"), "host\n");
      writeFileSync(secret, "one file\n");
      const script = `
        cat /data/from-host; echo guest >/data/from-guest; chmod 640 /data/from-guest; chown 12:34 /data/from-guest
        cat /etc/secret; echo x 2>/dev/null >/etc/secret && echo "secret writable" || echo "secret read-only"
        cat /ro/from-host; touch /ro/x 2>/dev/null && echo "ro writable" || echo "ro read-only"
        echo rootfs >/written; ln -s written /link; ln /written /hard; mkdir -p /deep/er
        stat -c %h /written; cat /link; dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null; stat -c %s /big
        mv /big /bigger && rm /bigger && [ ! -e /bigger ] && echo "renamed and removed"`;
      const lines = await inContainer("files", script, {
        mounts: [
          { destination: "/proc", type: "proc", source: "proc" },
          { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["mode=755"] },
          { destination: "/data", type: "bind", source: shared, options: ["rbind", "rw"] },
          { destination: "/ro", type: "bind", source: shared, options: ["rbind", "ro"] },
          { destination: "/etc/secret", type: "bind", source: secret, options: ["bind", "ro"] },
        ],
        process: { capabilities: { bounding: ALL_FILE_CAPS, effective: ALL_FILE_CAPS, permitted: ALL_FILE_CAPS } },
      });
      expect(lines).toEqual([
        "host",
        "one file",
        "secret read-only",
        "host",
        "ro read-only",
        "2",
        "rootfs",
        String(8 * 1024 * 1024),
        "renamed and removed",
      ]);
      expect(readFileSync(join(shared, "from-guest"), "utf8")).toBe("guest\n");
      const { uid, gid, mode } = statSync(join(shared, "from-guest"));
      expect([uid, gid, mode & 0o777]).toEqual([12, 34, 0o640]);
      expect(readFileSync(secret, "utf8")).toBe("one file\n");
    },
    VM_TEST_TIMEOUT_MS,
  );
});

const ALL_FILE_CAPS = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD"];

/** A host without KVM says so with each VM. */
function withoutKvmWarning(stderr: string): string {
  return stderr
    .split("\n")
    .filter((line) => !line.includes("no KVM"))
    .join("\n");
}

test(
  "over virtio-fs, files are read ahead as far as pays for the way to the host and back",
  () =>
    withHearth({ config: { hypervisor: { shared_fs: "virtio-fs" } } }, async (hearth) => {
      const script = `cat /sys/class/bdi/$(awk '$5 == "/" { print $3 }' /proc/self/mountinfo)/read_ahead_kb`;
      const mounts = [
        { destination: "/proc", type: "proc", source: "proc" },
        { destination: "/sys", type: "sysfs", source: "sysfs", options: ["ro"] },
      ];
      const bundle = await hearth.bundle({ args: ["sh", "-c", script], config: { mounts } });
      expect((await hearth.runtime(["run", "--bundle", bundle, "ahead"])).stdout).toBe(`${SHARE_READ_AHEAD_KIB}\n`);
    }),
  VM_TEST_TIMEOUT_MS,
);
