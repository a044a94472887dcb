/** The test host itself: what it offers that this machine lacks, and that it keeps to itself what is done in it. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { type Scratch, scratch } from "../harness/scratch.ts";
import { TestHost } from "../harness/test-host/test-host.ts";

const START_TIMEOUT_MS = 180_000;
const DISK_BYTES = 8 * 1024 * 1024;

let files: Scratch;
let host: TestHost;
beforeAll(async () => {
  files = scratch();
  writeFileSync(files.path("disk"), new Uint8Array(DISK_BYTES));
  writeFileSync(files.path("outside"), "from outside\n");
  host = await TestHost.start({ disk: files.path("disk") });
}, START_TIMEOUT_MS);
afterAll(async () => {
  await host[Symbol.asyncDispose]();
  files[Symbol.dispose]();
});

test("a command has its output, its errors, its input and its status", async () => {
  const script = 'cat; echo "$GREETING $(pwd)"; echo bad >&2; exit 7';
  const options = { stdin: "in\n", env: { GREETING: "hello" }, cwd: "/usr" };
  const { status, stdout, stderr } = await host.run(["sh", "-c", script], options);
  expect({ status, stdout, stderr }).toEqual({ status: 7, stdout: "in\nhello /usr\n", stderr: "bad\n" });
  expect((await host.run(["sh", "-c", "kill -9 $$"])).status).toBe(128 + 9);
  await expect(host.run(["/no/such/program"])).rejects.toThrow("ENOENT");
  await expect(host.ok(["false"])).rejects.toThrow("status 1");
});

test("bytes of any kind and number come through whole, commands run beside each other", async () => {
  const stdin = crypto.getRandomValues(new Uint8Array(60_000));
  const waiting = host.run(["sh", "-c", "until [ -e /tmp/go-on ]; do sleep 0.05; done; echo went on"]);
  const copies = await Promise.all([1, 2, 3].map(() => host.run(["sh", "-c", "cat; cat /dev/null"], { stdin })));
  for (const { bytes } of copies) expect(Buffer.from(bytes).equals(Buffer.from(stdin))).toBe(true);
  const { bytes } = await host.run(["head", "-c", "3000000", "/dev/zero"]);
  expect(bytes.length).toBe(3_000_000);
  await host.sh("touch /tmp/go-on");
  expect((await waiting).stdout).toBe("went on\n");
});

test("a command that does not end is killed with what it started", async () => {
  const hanging = host.run(["sh", "-c", "sleep 98765 & sleep 98765"], { timeoutMs: 1_000 });
  await expect(hanging).rejects.toThrow("not ended after 1000 ms");
  expect(await host.sh("pgrep -c -f 'sleep 9876[5]' || true")).toBe("0");
});

test("its files are this machine's; what it writes stays in it", async () => {
  const outside = files.path("outside");
  expect(await host.sh(`cat ${outside}`)).toBe("from outside");
  await host.write(outside, "changed inside\n");
  await host.write(files.path("made/inside"), "new\n");
  expect(await host.sh(`cat ${outside} ${files.path("made/inside")}`)).toBe("changed inside\nnew");
  expect(readFileSync(outside, "utf8")).toBe("from outside\n");
  expect(existsSync(files.path("made"))).toBe(false);
});

test("every capability, cgroup version 2, raised limits, and devices of virtual machines", async () => {
  const [capabilities, cgroup, controllers, limit] = await Promise.all([
    host.sh("grep CapEff /proc/self/status | cut -f2"),
    host.sh("stat -fc %T /sys/fs/cgroup"),
    host.sh("cat /sys/fs/cgroup/cgroup.subtree_control"),
    host.sh("ulimit -Hn 1048576 && ulimit -Hl unlimited && ulimit -Hn"),
  ]);
  expect({ capabilities, cgroup, limit }).toEqual({
    capabilities: "000001ffffffffff",
    cgroup: "cgroup2fs",
    limit: "1048576",
  });
  expect(controllers.split(" ")).toEqual(expect.arrayContaining(["cpu", "io", "memory", "pids"]));
  await host.sh("mkdir /sys/fs/cgroup/t && echo 50M >/sys/fs/cgroup/t/memory.max && rmdir /sys/fs/cgroup/t");
  await host.sh("modprobe -a vhost_vsock vhost_net tun && exec 3<>/dev/vhost-vsock 4<>/dev/vhost-net 5<>/dev/net/tun");
});

test("networks: bridges, veth pairs, and traffic redirected from one interface to another", async () => {
  const rules = await host.sh(`
    ip link add b0 type bridge && ip link add v0 type veth peer name v1 && ip link set v0 master b0 up
    ip netns add n && ip link set v1 netns n && ip tuntap add t0 mode tap
    tc qdisc add dev v0 ingress
    tc filter add dev v0 parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev t0
    tc filter show dev v0 parent ffff:`);
  expect(rules).toContain("Egress Redirect to device t0");
});

test("orphans are reaped", async () => {
  const pid = await host.sh("(sleep 0.05 & echo $!)");
  await host.sh(`while [ -e /proc/${pid} ]; do sleep 0.02; done`);
});

test(
  "a loss of power leaves the disk as it was written through, and ends what runs",
  async () => {
    await host.sh("modprobe ext4 && mkfs.ext4 -q /dev/vda && mkdir /disk && mount -o commit=300 /dev/vda /disk");
    await host.sh("echo safe >/disk/safe && sync /disk/safe && sync -f /disk && echo lost >/disk/lost");
    const running = host.run(["sleep", "1000"]);
    host.cutPower();
    await expect(running).rejects.toThrow("ended with signal SIGKILL");
    await host[Symbol.asyncDispose]();
    host = await TestHost.start({ disk: files.path("disk"), memoryMib: 1024 });
    const left = await host.sh("modprobe ext4 && mkdir -p /disk && mount /dev/vda /disk && cat /disk/safe && ls /disk");
    expect(left.split("\n").filter((line) => line !== "lost+found")).toEqual(["safe", "safe"]);
    expect(existsSync("/disk")).toBe(false);
    await host.powerOff();
    await expect(host.run(["true"])).rejects.toThrow("ended with exit status 0");
  },
  START_TIMEOUT_MS,
);
