/** What makes a clone a VM of its own: random numbers, clock, boot id, names, addresses; also after a pause in the pool. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { runOrThrow } from "../../src/sys/run-process.ts";
import { bundleConfig } from "../harness/bundle.ts";
import { assertRightClock, CLOCK_PROGRAM, clockError } from "../harness/guest-clock.ts";
import { type Hearth, type OpenHearth, openHearth } from "../harness/hearth.ts";
import { startPool } from "../harness/pool.ts";
import { PATH } from "../harness/program.ts";

/** How long a VM stays paused in the pool. `npm run test:pause` makes it several minutes. */
const PAUSE_MS = Number(process.env["HEARTH_TEST_PAUSE_MS"] ?? "3000");
const TIMEOUT_MS = 180_000 + PAUSE_MS;
const DRAWS = 10_000;

/** Perl, which Debian always has, with the libraries it needs: it can call getrandom(2), number 318 on x86-64. */
const PERL_MOUNTS = ["/usr/bin/perl", "/lib/x86_64-linux-gnu", "/lib64"].map((path) => ({
  destination: path,
  type: "bind",
  source: path,
  options: ["rbind", "ro"],
}));
const DRAW = `
  my $draw = "\\0" x 16;
  open my $device, "<:raw", "/dev/urandom" or die;
  for (1 .. ${DRAWS}) {
    syscall(318, $draw, 16, 0) == 16 or die;
    print unpack("H*", $draw), "\\n";
    sysread($device, $draw, 16) == 16 or die;
    print unpack("H*", $draw), "\\n";
  }`;

const ids = [1, 2].map((index) => `hearth-clone-${process.pid}-${index}`);

let opened: OpenHearth;
let hearth: Hearth;
beforeAll(async () => {
  for (const [index, id] of ids.entries()) {
    await runOrThrow(["ip", "netns", "add", id]);
    await runOrThrow(["ip", "-n", id, "link", "add", "eth0", "type", "veth", "peer", "name", "peer0"]);
    await runOrThrow(["ip", "-n", id, "addr", "add", `10.97.${index}.2/24`, "dev", "eth0"]);
    for (const link of ["peer0", "eth0"]) await runOrThrow(["ip", "-n", id, "link", "set", link, "up"]);
  }
  opened = openHearth({ config: { hypervisor: { shared_fs: "virtio-9p" }, factory: { enable_template: true } } });
  hearth = opened.hearth;
  const { status, stderr } = await hearth.run(["template", "init"]);
  if (status !== 0) throw new Error(`template init: ${stderr}${opened.describe()}`);
}, TIMEOUT_MS);
afterAll(async () => {
  for (const id of ids) await runOrThrow(["ip", "netns", "del", id]);
  await opened.close();
});

/** A bundle whose container has perl, a network namespace of its own, the guest's host name and an image's machine id. */
async function cloneBundle(id: string): Promise<string> {
  const namespaces = ["pid", "ipc", "uts", "mount"].map((type) => ({ type }));
  const network = { type: "network", path: `/run/netns/${id}` };
  const script = `cat /proc/sys/kernel/random/boot_id; cat /proc/sys/kernel/random/boot_id; hostname
    cat /sys/class/net/eth0/address; cat /etc/machine-id; exec perl -e '${DRAW}'`;
  const { mounts } = bundleConfig({ args: [] });
  const bundle = await hearth.bundle({
    args: ["sh", "-c", script],
    config: {
      hostname: undefined,
      mounts: [...(Array.isArray(mounts) ? mounts : []), ...PERL_MOUNTS],
      linux: { namespaces: [...namespaces, network] },
    },
  });
  writeFileSync(join(bundle, "rootfs/etc/machine-id"), `${id}\n`);
  return bundle;
}

async function inClone(id: string, bundle: string): Promise<string[]> {
  const { status, stdout, stderr } = await hearth.runtime(["--debug", "run", "--bundle", bundle, id]);
  if (status !== 0) process.stderr.write(opened.describe());
  expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
  expect(stderr).toContain("source=template");
  return stdout.trimEnd().split("\n");
}

test(
  "two clones of one template, asked for at once, have nothing in common that should be one's own",
  async () => {
    const bundles = await Promise.all(ids.map(cloneBundle));
    const outputs = await Promise.all(ids.map((id, index) => inClone(id, bundles[index] ?? "")));
    const seen = outputs.map((lines) => {
      const [bootId = "", bootIdAgain, hostname = "", mac = "", machineId = "", ...draws] = lines;
      expect(bootId).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
      // It is the boot's, not made at each look.
      expect(bootIdAgain).toBe(bootId);
      expect(mac).toMatch(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/);
      expect(draws).toHaveLength(2 * DRAWS);
      expect(draws.filter((draw) => !/^[0-9a-f]{32}$/.test(draw))).toEqual([]);
      return { own: [bootId, hostname, mac, machineId], draws };
    });
    const [first, second] = seen;
    expect(second?.own.filter((value, index) => value === first?.own[index])).toEqual([]);
    expect(seen.map(({ own }) => own.at(-1))).toEqual(ids);
    const distinct = new Set(seen.flatMap(({ draws }) => draws));
    expect(distinct.size).toBe(4 * DRAWS);
  },
  TIMEOUT_MS,
);

test(
  "what the kernel itself makes once a boot is made after the cloning: a container that mounts /proc anew sees its own",
  async () => {
    const script = "mkdir /p; mount -t proc proc /p && cat /p/sys/kernel/random/boot_id";
    const capabilities = ["CAP_SYS_ADMIN"];
    const config = {
      process: { capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities } },
      linux: { maskedPaths: [], readonlyPaths: [] },
    };
    const bundle = await hearth.bundle({ args: ["sh", "-c", script], config });
    const [[one], [two]] = [await inClone("boot-1", bundle), await inClone("boot-2", bundle)];
    expect(one).toMatch(/^[0-9a-f-]{36}$/);
    expect(one).not.toBe(two);
  },
  TIMEOUT_MS,
);

test(
  "a container in a user namespace gets to its root in a clone too",
  async () => {
    const mappings = [{ containerID: 0, hostID: 100_000, size: 1000 }];
    const namespaces = ["pid", "network", "ipc", "uts", "mount", "user"].map((type) => ({ type }));
    const linux = { namespaces, uidMappings: mappings, gidMappings: mappings, maskedPaths: [], readonlyPaths: [] };
    const bundle = await hearth.bundle({ args: ["sh", "-c", "id -u; cat /proc/self/uid_map"], config: { linux } });
    const [user, map] = await inClone("user-namespace", bundle);
    expect([user, map?.trim().split(/\s+/)]).toEqual(["0", ["0", "100000", "1000"]]);
  },
  TIMEOUT_MS,
);

async function expectRightClock(config: string, id: string): Promise<void> {
  const bundle = await hearth.bundle({ args: CLOCK_PROGRAM });
  const argv = [hearth.runtimePath, "--config", config, "run", "--bundle", bundle, id];
  try {
    assertRightClock(await clockError({ argv, argv0: "hearth-runtime", env: { PATH, ...hearth.env } }));
  } catch (thrown) {
    process.stderr.write(opened.describe());
    throw thrown;
  }
}

test("the clock of a clone is right", () => expectRightClock(hearth.configPath, "clock"), TIMEOUT_MS);

test(
  `the clock of a clone that was paused in the pool for ${PAUSE_MS} ms is right`,
  async () => {
    const config = hearth.configWith({ factory: { vm_cache_number: 1, vm_cache_timeout_ms: 60_000 } });
    await using pool = startPool(hearth, 1);
    await pool.idle(1);
    await Bun.sleep(PAUSE_MS);
    await expectRightClock(config, "paused");
    expect(await pool.stop()).toBe(0);
  },
  TIMEOUT_MS,
);
